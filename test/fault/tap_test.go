package main

import (
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditevent"
)

func message(subject, id, data string) *nats.Msg {
	m := &nats.Msg{Subject: subject, Header: nats.Header{}, Data: []byte(data)}
	if id != "" {
		m.Header.Set(nats.MsgIdHdr, id)
	}
	return m
}

func TestEachEventOfAMessageIsSeenUnderItsOwnID(t *testing.T) {
	t.Parallel()
	const one, two = `{"eventId":"1","requestId":"r1"}`, `{"eventId":"2","requestId":"r2"}`
	together := tap{byID: map[string]*sighting{}, byRequest: map[string][]string{}}
	batch := auditevent.BatchSubject("token")

	together.heard(message("audit.token.token.issued", "1", one))
	together.heard(message(batch, "", one+"\n"+two))
	together.heard(message(batch, "marker", two+"\nno JSON\n"+two))
	together.heard(message("audit.token.token.issued", "again", one))

	require.Len(t, together.byID, 4)
	require.Equal(t, 2, together.byID["1"].times)
	require.Equal(t, 3, together.byID["2"].times)
	require.True(t, together.byID["2"].event)
	require.Equal(t, two, string(together.payload("2")))
	require.Equal(t, "no JSON", string(together.payload("marker")))
	require.False(t, together.byID["marker"].event)
	require.False(t, together.byID["again"].event, "only published again under another id")
	require.Equal(t, []string{"2"}, together.byRequest["r2"])
}
