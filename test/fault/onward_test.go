package main

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

func TestEveryLeafGoesOnwardAsItIs(t *testing.T) {
	t.Parallel()
	l := makeLog(t, 5, "r", newLogKey(t))
	type message struct {
		subject string
		header  nats.Header
		data    []byte
	}
	sent := func() []message {
		all := make([]message, 0, len(l.proofs))
		for i, p := range l.proofs {
			header := nats.Header{}
			header.Set("Audit-Leaf-Index", fmt.Sprint(i))
			header.Set("Audit-Leaf-Hash", p.LeafHash.String())
			header.Set(nats.MsgIdHdr, l.events[i].id)
			all = append(all, message{"auditlog.token.token.issued", header, []byte(p.Leaf)})
		}
		return all
	}
	for name, c := range map[string]struct {
		change func([]message) []message
		wrong  string
	}{
		"all":                 {func(all []message) []message { return all }, ""},
		"some of them twice":  {func(all []message) []message { return append(all, all[1:3]...) }, ""},
		"not the last one":    {func(all []message) []message { return all[:4] }, "leaf 4 did not go onward"},
		"none":                {func([]message) []message { return nil }, "did not go onward"},
		"one of another log":  {func(all []message) []message { return append(all, message{header: nats.Header{}}) }, "what no event is"},
		"a leaf beyond":       {func(all []message) []message { all[0].header.Set("Audit-Leaf-Index", "5"); return all }, "what no event is"},
		"one in another form": {func(all []message) []message { all[2].data = append(all[2].data, ' '); return all }, "leaf 2 goes onward with another content"},
		"under another hash":  {func(all []message) []message { all[2].header.Set("Audit-Leaf-Hash", "x"); return all }, "another hash: x"},
		"under another id":    {func(all []message) []message { all[2].header.Set(nats.MsgIdHdr, "e1"); return all }, "another id: e1"},
		"elsewhere":           {func(all []message) []message { all[2].subject = "auditlog.token.token.revoked"; return all }, "another subject"},
	} {
		o := &onward{leaves: l.take(t, 5), seen: map[int64]bool{}}
		for _, m := range c.change(sent()) {
			o.take(m.subject, m.header, m.data)
		}
		found := append(o.found, o.missing()...)
		if c.wrong == "" {
			require.Empty(t, found, name)
			continue
		}
		require.NotEmpty(t, found, name)
		require.Contains(t, found[0].what, c.wrong, name)
	}
}
