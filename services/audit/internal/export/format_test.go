package export_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/services/audit/internal/export"
)

// mapped are the lines of an export in a format that is not the log's, by event.
func mapped(t *testing.T, s *shelf, format export.Format) []map[string]any {
	t.Helper()
	text, complete := writeText(t, s, export.Request{Format: format})
	require.True(t, complete)
	var events []map[string]any
	for line := range strings.Lines(text) {
		var event map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &event))
		events = append(events, event)
	}
	return events
}

// stored is a log of payloads, one event each.
func stored(t *testing.T, payloads ...string) *shelf {
	t.Helper()
	s := newShelf(t, 0)
	for i, payload := range payloads {
		s.rows = append(s.rows, export.Row{Index: int64(i), Payload: []byte(payload)})
		leaf, err := auditlog.Leaf([]byte(payload))
		require.NoError(t, err)
		s.add(auditlog.HashLeaf(leaf))
	}
	return s
}

const revoked = `{"schemaVersion":1,"eventId":"0190c3b1-77aa-7f3e-a0c4-5d2e8b1c9f00","timestamp":"2026-11-22T09:14:03.120518Z",
	"agentId":"0190c3a4-5b6d-7c11-8f0e-2f3b1d9a7c10","actorId":"0190c3a4-0001-7a00-9d00-aa55aa55aa55","action":"credential.revoked",
	"outcome":"success","ipAddress":"203.0.113.7","userAgent":"<curl>","service":"credentials","requestId":"r-1","metadata":{"b":1,"a":2}}`

const refused = `{"schemaVersion":1,"eventId":"0190c3b1-9c00-7b21-8e55-6a1d2c3b4e5f","timestamp":"2026-11-22T09:15:44Z","agentId":null,
	"actorId":null,"action":"auth.failed","outcome":"failure","ipAddress":"","userAgent":"","service":"token","requestId":"",
	"metadata":{"reason":"agent_not_found"}}`

func TestACloudEventHoldsTheWholeEvent(t *testing.T) {
	t.Parallel()
	s := stored(t, revoked, refused)
	events := mapped(t, s, export.FormatCloudEvents)
	require.Len(t, events, 2)
	leaf, err := auditlog.Leaf([]byte(revoked))
	require.NoError(t, err)
	var data any
	require.NoError(t, json.Unmarshal(leaf, &data))
	require.Equal(t, map[string]any{
		"specversion": "1.0", "id": "0190c3b1-77aa-7f3e-a0c4-5d2e8b1c9f00", "source": "/agentidp/credentials",
		"type": "agentidp.credential.revoked", "subject": "0190c3a4-5b6d-7c11-8f0e-2f3b1d9a7c10", "time": "2026-11-22T09:14:03.120518Z",
		"datacontenttype": "application/json", "leafindex": "0", "leafhash": s.levels[0][0].String(), "data": data,
	}, events[0])
	require.NotContains(t, events[1], "subject")
	for name := range events[0] { // CloudEvents 1.0, section 3.1
		require.Regexp(t, "^[a-z0-9]{1,20}$", name)
	}
	text, _ := writeText(t, s, export.Request{Format: export.FormatCloudEvents})
	require.Contains(t, text, `"data":`+string(leaf)+"}\n", "byte for byte, so that its hash can be computed")
}

// required are the attributes that each class of OCSF 1.3 demands, and, of those of
// which one is enough, the one that we give.
func required(class float64) []string {
	always := []string{"activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid"}
	if class == 3002 {
		return append(always, "user", "service")
	}
	return append(always, "actor", "api", "src_endpoint")
}

func TestEveryActionHasItsPlaceInOCSF(t *testing.T) {
	t.Parallel()
	types := map[string]float64{
		"agent.created": 600301, "agent.updated": 600303, "agent.suspended": 600303, "agent.reactivated": 600303,
		"agent.decommissioned": 600304, "agent.keys_updated": 600303, "credential.generated": 600301, "credential.rotated": 600303,
		"credential.revoked": 600304, "token.issued": 300201, "token.introspected": 600302, "token.revoked": 600304, "auth.failed": 300201,
		"robot.exploded": 600399,
	}
	var payloads, actions []string
	for _, action := range append(auditevent.Actions(), "robot.exploded") {
		actions = append(actions, string(action))
		payloads = append(payloads, strings.Replace(revoked, "credential.revoked", string(action), 1))
	}
	for i, event := range mapped(t, stored(t, payloads...), export.FormatOCSF) {
		require.Equal(t, types[actions[i]], event["type_uid"], actions[i])
		require.InDelta(t, event["type_uid"], event["class_uid"].(float64)*100+event["activity_id"].(float64), 0)
		require.InDelta(t, event["category_uid"], float64(int(event["class_uid"].(float64)/1000)), 0)
		for _, name := range required(event["class_uid"].(float64)) {
			require.Contains(t, event, name, actions[i])
		}
		require.NotEmpty(t, event["activity_name"])
	}
}

func TestAnOCSFEventSaysWhoDidWhatToWhomFromWhere(t *testing.T) {
	t.Parallel()
	s := stored(t, revoked, refused)
	events := mapped(t, s, export.FormatOCSF)
	require.Len(t, events, 2)

	did := events[0]
	require.InDelta(t, 1795338843120, did["time"], 0)
	require.Equal(t, "Success", did["status"])
	require.Equal(t, map[string]any{"user": map[string]any{"uid": "0190c3a4-0001-7a00-9d00-aa55aa55aa55", "type_id": 3.0}}, did["actor"])
	require.Equal(t, map[string]any{"operation": "credential.revoked", "service": map[string]any{"name": "credentials"}}, did["api"])
	require.Equal(t, []any{map[string]any{"uid": "0190c3a4-5b6d-7c11-8f0e-2f3b1d9a7c10", "type": "agent"}}, did["resources"])
	require.Equal(t, map[string]any{"ip": "203.0.113.7"}, did["src_endpoint"])
	require.Equal(t, map[string]any{
		"version": "1.3.0", "product": map[string]any{"name": "AgentIdP", "vendor_name": "AgentIdP"}, "uid": "0190c3b1-77aa-7f3e-a0c4-5d2e8b1c9f00",
		"event_code": "credential.revoked", "log_name": "audit", "log_provider": "credentials", "original_time": "2026-11-22T09:14:03.120518Z",
		"correlation_uid": "r-1", "sequence": 0.0,
	}, did["metadata"])
	unmapped := did["unmapped"].(map[string]any)
	require.Equal(t, s.levels[0][0].String(), unmapped["leafHash"])
	require.Equal(t, map[string]any{"a": 2.0, "b": 1.0}, unmapped["event"].(map[string]any)["metadata"])

	failed := events[1]
	require.Equal(t, "Failure", failed["status"])
	require.Equal(t, "agent_not_found", failed["status_detail"])
	require.Equal(t, map[string]any{"name": "unknown", "type_id": 3.0}, failed["user"])
	require.Equal(t, map[string]any{"name": "unknown"}, failed["src_endpoint"])
	require.NotContains(t, failed, "actor")
}

func TestAnEventThatIsGoneIsNoLineOfOtherFormats(t *testing.T) {
	t.Parallel()
	s := stored(t, revoked, refused)
	s.rows = s.rows[1:]
	require.Len(t, mapped(t, s, export.FormatOCSF), 1)
	require.Len(t, mapped(t, s, export.FormatCloudEvents), 1)
}

func TestWhatCannotBeReadIsNotHidden(t *testing.T) {
	t.Parallel()
	s := stored(t, revoked)
	s.rows[0].Payload = []byte(`{"schemaVersion":7}`)
	require.Equal(t, "agentidp.event.unreadable", mapped(t, s, export.FormatCloudEvents)[0]["type"])
	require.Equal(t, "event.unreadable", mapped(t, s, export.FormatOCSF)[0]["message"])
}
