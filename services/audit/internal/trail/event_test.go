package trail_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

const (
	eventID = "0190c3b1-77aa-7f3e-a0c4-5d2e8b1c9f00"
	agentID = "0190c3a4-5b6d-7c11-8f0e-2f3b1d9a7c10"
)

// payload is a published event with fields replaced; nil takes one away.
func payload(tb testing.TB, replace map[string]any) []byte {
	tb.Helper()
	fields := map[string]any{
		"schemaVersion": 1,
		"eventId":       eventID,
		"timestamp":     "2026-11-22T09:14:03.120518Z",
		"agentId":       agentID,
		"actorId":       nil,
		"action":        "auth.failed",
		"outcome":       "failure",
		"ipAddress":     "203.0.113.7",
		"userAgent":     "curl/8.5.0",
		"service":       "token",
		"requestId":     "request-1",
		"metadata":      map[string]any{"reason": "invalid_secret"},
	}
	for name, value := range replace {
		fields[name] = value
		if value == nil {
			delete(fields, name)
		}
	}
	encoded, err := json.Marshal(fields)
	require.NoError(tb, err)
	return encoded
}

func TestDecodeReadsWhatServicesPublish(t *testing.T) {
	t.Parallel()
	agent, actor := uuid.MustParse(agentID), uuid.New()
	at := time.Date(2026, 11, 22, 9, 14, 3, 120518999, time.FixedZone("CET", 3600))
	published := auditevent.New(uuid.MustParse(eventID), at, "credentials", auditevent.CredentialRotated, &agent,
		auditevent.Origin{ActorID: &actor, IPAddress: "2001:db8::1", UserAgent: "sdk/1", RequestID: "r-1"},
		map[string]any{"credentialId": "c-1"})
	message, err := published.Message()
	require.NoError(t, err)

	event, err := trail.Decode(message.Payload)

	require.NoError(t, err)
	require.Equal(t, trail.Event{
		ID:        published.EventID,
		Timestamp: time.Date(2026, 11, 22, 8, 14, 3, 120518000, time.UTC),
		AgentID:   &agent,
		ActorID:   &actor,
		Action:    "credential.rotated",
		Outcome:   "success",
		Service:   "credentials",
		IPAddress: "2001:db8::1",
		UserAgent: "sdk/1",
		RequestID: "r-1",
		Metadata:  json.RawMessage(`{"credentialId":"c-1"}`),
		Payload:   message.Payload,
	}, event)
}

func TestDecodeKeepsWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	raw := payload(t, map[string]any{"action": "agent.cloned", "geo": map[string]any{"country": "CH"}})
	event, err := trail.Decode(raw)
	require.NoError(t, err)
	require.Equal(t, "agent.cloned", event.Action)
	require.Equal(t, raw, event.Payload)
}

func TestDecodeLeavesMetadataAsWritten(t *testing.T) {
	t.Parallel()
	raw := []byte(strings.Replace(string(payload(t, nil)), `{"reason":"invalid_secret"}`, `{"n":12345678901234567890, "nul":"a\u0000b"}`, 1))
	event, err := trail.Decode(raw)
	require.NoError(t, err)
	require.Equal(t, `{"n":12345678901234567890, "nul":"a\u0000b"}`, string(event.Metadata))
}

func TestDecodeMakesAbsentMetadataAnEmptyObject(t *testing.T) {
	t.Parallel()
	absent := payload(t, map[string]any{"metadata": nil})
	null := payload(t, map[string]any{"metadata": json.RawMessage("null")})
	for _, raw := range [][]byte{absent, null} {
		event, err := trail.Decode(raw)
		require.NoError(t, err)
		require.JSONEq(t, `{}`, string(event.Metadata))
	}
}

func TestDecodeRefusesWhatIsNoEvent(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		raw    []byte
		reason string
	}{
		"nothing":                          {nil, "not an event: invalid JSON"},
		"bytes that are not UTF-8":         {[]byte("{\"action\":\"\xff\"}"), "not valid UTF-8"},
		"broken JSON":                      {[]byte(`{"eventId":`), "invalid JSON at byte 11"},
		"two documents":                    {append(payload(t, nil), '{'), "invalid JSON"},
		"a list":                           {[]byte(`[]`), "not an event"},
		"null":                             {[]byte(`null`), "schemaVersion 0 is not supported"},
		"no schema version":                {payload(t, map[string]any{"schemaVersion": nil}), "schemaVersion 0 is not supported"},
		"a schema version of the future":   {payload(t, map[string]any{"schemaVersion": 2}), "schemaVersion 2 is not supported"},
		"a schema version as text":         {payload(t, map[string]any{"schemaVersion": "1"}), "schemaVersion has the wrong type"},
		"no event id":                      {payload(t, map[string]any{"eventId": nil}), "eventId is missing"},
		"an event id that is none":         {payload(t, map[string]any{"eventId": "secret"}), "a field has a malformed value"},
		"an agent id that is none":         {payload(t, map[string]any{"agentId": "x"}), "a field has a malformed value"},
		"no timestamp":                     {payload(t, map[string]any{"timestamp": nil}), "timestamp is missing"},
		"a timestamp without a zone":       {payload(t, map[string]any{"timestamp": "2026-11-22T09:14:03"}), "a field has a malformed value"},
		"a timestamp before the year 1":    {payload(t, map[string]any{"timestamp": "0001-01-01T00:00:00+01:00"}), "timestamp is out of range"},
		"a timestamp past the year 9999":   {payload(t, map[string]any{"timestamp": "9999-12-31T23:59:59-01:00"}), "timestamp is out of range"},
		"no action":                        {payload(t, map[string]any{"action": nil}), "action is missing or malformed"},
		"an action of one word":            {payload(t, map[string]any{"action": "created"}), "action is missing or malformed"},
		"an action with a NUL":             {payload(t, map[string]any{"action": "agent.created\x00"}), "action is missing or malformed"},
		"an outcome that is neither":       {payload(t, map[string]any{"outcome": "maybe"}), "outcome is neither"},
		"no service":                       {payload(t, map[string]any{"service": nil}), "service is missing or malformed"},
		"a service with a space":           {payload(t, map[string]any{"service": "to ken"}), "service is missing or malformed"},
		"metadata that is a list":          {payload(t, map[string]any{"metadata": []int{1}}), "metadata is not a JSON object"},
		"metadata that is text":            {payload(t, map[string]any{"metadata": "{}"}), "metadata is not a JSON object"},
		"a user agent of the wrong type":   {payload(t, map[string]any{"userAgent": 1}), "userAgent has the wrong type"},
		"nesting past what JSON allows":    {[]byte(`{"x":` + strings.Repeat("[", 10000)), "invalid JSON"},
		"a name far too long for a column": {payload(t, map[string]any{"service": strings.Repeat("a", 65)}), "service is missing or malformed"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := trail.Decode(test.raw)
			require.ErrorContains(t, err, test.reason)
			require.NotContains(t, err.Error(), "secret", "the reason must not repeat the payload")
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(payload(f, nil))
	f.Add(payload(f, map[string]any{"metadata": nil, "actorId": agentID}))
	f.Add([]byte(`{"schemaVersion":1,"metadata":{"a":"\u0000\ud800"}}`))
	f.Add([]byte("{\"userAgent\":\"\xff\"}"))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		event, err := trail.Decode(raw)
		if err != nil {
			return
		}
		require.NotEqual(t, uuid.Nil, event.ID)
		require.True(t, utf8.Valid(event.Payload))
		require.Equal(t, event.Timestamp, event.Timestamp.UTC().Truncate(trail.Resolution))
		require.NotContains(t, event.Action+event.Service+event.Outcome, "\x00")
		var object map[string]any
		require.NoError(t, json.Unmarshal(event.Metadata, &object))
		_, err = json.Marshal(event.Timestamp)
		require.NoError(t, err, "what was decoded can be shown")
		again, err := trail.Decode(event.Payload)
		require.NoError(t, err)
		require.Equal(t, event, again)
	})
}
