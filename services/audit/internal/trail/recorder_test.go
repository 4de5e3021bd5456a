package trail_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// withMembers is an event with these members more.
func withMembers(members string) []byte {
	return fmt.Appendf(nil, `{"schemaVersion":1,"eventId":"0190c3b1-77aa-7f3e-a0c4-5d2e8b1c9f00","timestamp":"2026-11-22T09:14:03Z",
		"action":"token.issued","outcome":"success","service":"token"%s}`, members)
}

func TestReceiveHashesTheLeafOfAnEvent(t *testing.T) {
	t.Parallel()
	origin := trail.Origin{Sequence: 7}
	d := trail.Receive(origin, withMembers(`,"later":{"b":1.0,"a":[]}`))
	require.Empty(t, d.Reject)
	require.Equal(t, origin, d.Origin)
	require.Equal(t, auditlog.HashLeaf([]byte(`{"action":"token.issued","eventId":"0190c3b1-77aa-7f3e-a0c4-5d2e8b1c9f00","later":{"a":[],"b":1},`+
		`"outcome":"success","schemaVersion":1,"service":"token","timestamp":"2026-11-22T09:14:03Z"}`)), d.LeafHash)

	again := trail.Receive(origin, withMembers(` , "later" : {"a":[], "b":1}`))
	require.Equal(t, d.LeafHash, again.LeafHash, "however it is written")
	require.NotEqual(t, d.LeafHash, trail.Receive(origin, withMembers("")).LeafHash)
}

func TestReceiveRejectsWhatCannotBeALeaf(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ members, reason string }{
		"a field named twice":              {`,"outcome":"success"`, "names a field twice"},
		"a field named twice, deeper":      {`,"metadata":{"a":1,"a":1}`, "names a field twice"},
		"half of a surrogate pair":         {`,"userAgent":"\ud800"`, "surrogate"},
		"a number past a double":           {`,"metadata":{"n":9007199254740993}`, "double"},
		"more than a bundle's entry holds": {`,"userAgent":"` + strings.Repeat("x", auditlog.MaxLeaf) + `"`, "65535 bytes"},
	} {
		d := trail.Receive(trail.Origin{}, withMembers(test.members))
		require.Contains(t, d.Reject, "cannot be a leaf of the log", name)
		require.Contains(t, d.Reject, test.reason, name)
	}
	large := withMembers(`,"userAgent":"` + strings.Repeat(`\u003c`, auditlog.MaxLeaf-200) + `"`)
	require.Empty(t, trail.Receive(trail.Origin{}, large).Reject, "its leaf is small enough")
	require.Contains(t, trail.Receive(trail.Origin{}, withMembers(strings.Repeat(" ", trail.MaxPayload))).Reject, "more than 393210 bytes")
	require.NotContains(t, trail.Receive(trail.Origin{}, []byte("no event")).Reject, "leaf")
}

func TestReceiveRejectsFieldsThatDifferFromOthersByCaseOnly(t *testing.T) {
	t.Parallel()
	for _, members := range []string{
		`,"Outcome":"failure"`,
		`,"OUTCOME":"success"`,
		`,"agentid":"0190c3a4-5b6d-7c11-8f0e-2f3b1d9a7c10"`,
		`,"MetaData":{"a":1}`,
		`,"\u004fUTCOME":"failure"`, // written as an escape
		`,"u\u017ferAgent":"x"`,     // a long s, which folds to s
	} {
		d := trail.Receive(trail.Origin{}, withMembers(members))
		require.Equal(t, "a field has the name of another but for its case", d.Reject, members)
	}
	for _, members := range []string{`,"outcomes":1`, `,"Geo":"CH"`, `,"metadata":{"Outcome":"failure","outcome":1}`} {
		require.Empty(t, trail.Receive(trail.Origin{}, withMembers(members)).Reject, members)
	}
}

func TestTheWindowBeginsInTheMiddleOfItsOldestDay(t *testing.T) {
	t.Parallel()
	window := trail.NewWindow(90)
	require.Equal(t, 90, window.Days())
	require.Equal(t, now.AddDate(0, 0, -90), window.Since(now))
	require.Equal(t, trail.Day(now.AddDate(0, 0, -90)), window.Oldest(now))
}
