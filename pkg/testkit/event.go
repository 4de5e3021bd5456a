package testkit

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditevent"
)

// Event reads a published audit event, which may have no other fields than events have, and an action that there is.
func Event(t *testing.T, payload []byte) auditevent.Event {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.DisallowUnknownFields()
	var event auditevent.Event
	require.NoError(t, decoder.Decode(&event), "%s", payload)
	require.Equal(t, auditevent.SchemaVersion, event.SchemaVersion)
	require.Contains(t, auditevent.Actions(), event.Action)
	return event
}
