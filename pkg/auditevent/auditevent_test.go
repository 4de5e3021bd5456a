package auditevent_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/pkg/timeid"
)

var (
	id    = uuid.MustParse("019cb706-4413-774b-bcce-b302099a8057")
	agent = uuid.MustParse("11111111-1111-4111-8111-111111111111")
	actor = uuid.MustParse("22222222-2222-4222-8222-222222222222")
	at    = time.Date(2026, 3, 4, 5, 6, 7, 123456789, time.FixedZone("CET", 3600))
)

func event() auditevent.Event {
	origin := auditevent.Origin{ActorID: &actor, IPAddress: "192.0.2.1", UserAgent: "curl/8", RequestID: "req-1"}
	return auditevent.New(id, at, "registry", auditevent.AgentCreated, &agent, origin, map[string]any{"email": "a@example.com"})
}

func TestAnEventHasItsWireFormAndComesBackAsItWent(t *testing.T) {
	t.Parallel()
	msg, err := event().Message()
	require.NoError(t, err)
	require.Equal(t, id, msg.ID)
	require.Equal(t, "audit.registry.agent.created", msg.Subject)
	require.JSONEq(t, `{
		"schemaVersion": 1,
		"eventId": "019cb706-4413-774b-bcce-b302099a8057",
		"timestamp": "2026-03-04T04:06:07.123456Z",
		"agentId": "11111111-1111-4111-8111-111111111111",
		"actorId": "22222222-2222-4222-8222-222222222222",
		"action": "agent.created",
		"outcome": "success",
		"ipAddress": "192.0.2.1",
		"userAgent": "curl/8",
		"service": "registry",
		"requestId": "req-1",
		"metadata": {"email": "a@example.com"}
	}`, string(msg.Payload))
	require.Equal(t, event(), testkit.Event(t, msg.Payload))
}

// The clock of ids does not go back when the machine's does, and the trail refuses an id that tells of another day.
func TestTheIDOfAnEventTellsOfItsTime(t *testing.T) {
	t.Parallel()
	ahead := timeid.At(id, at.AddDate(0, 0, 2))
	e := auditevent.New(ahead, at, "token", auditevent.TokenIssued, &agent, auditevent.Origin{}, nil)
	require.Equal(t, id, e.EventID)

	meanwhile := timeid.At(id, at.Add(time.Second))
	e = auditevent.New(meanwhile, at, "token", auditevent.TokenIssued, &agent, auditevent.Origin{}, nil)
	require.Equal(t, meanwhile, e.EventID, "ids of one process stay in order")
}

func TestAnEventOfNobodyAboutNothingHasNullsAndAnEmptyObject(t *testing.T) {
	t.Parallel()
	e := auditevent.New(id, at, "token", auditevent.AuthFailed, nil, auditevent.Origin{}, nil)
	require.Equal(t, auditevent.Failure, e.Outcome)
	payload, err := json.Marshal(e)
	require.NoError(t, err)
	require.Contains(t, string(payload), `"actorId":null,"agentId":null`)
	require.Contains(t, string(payload), `"metadata":{}`)
}

func TestOnlyAFailedAuthenticationIsAFailure(t *testing.T) {
	t.Parallel()
	for _, action := range auditevent.Actions() {
		e := auditevent.New(id, at, "x", action, nil, auditevent.Origin{}, nil)
		require.Equal(t, action == auditevent.AuthFailed, e.Outcome == auditevent.Failure, action)
	}
	require.Len(t, auditevent.Actions(), 13)
}

func TestAnEventIsPublishedInCanonicalForm(t *testing.T) {
	t.Parallel()
	origin := auditevent.Origin{ActorID: &actor, IPAddress: "2001:db8::1", UserAgent: `<a href="x">&\ \u00e9 😀`, RequestID: "req-1"}
	for _, action := range auditevent.Actions() {
		e := auditevent.New(id, at, "token", action, &agent, origin, map[string]any{
			"scope": "agents:read agents:write", "active": true, "expiresIn": 3600, "b": []string{"version"}, "a": nil, "Z": map[string]any{"y": 1, "x": "\n\x01"},
		})
		msg, err := e.Message()
		require.NoError(t, err)
		require.True(t, auditlog.Canonical(msg.Payload), string(msg.Payload))
	}
	e := event()
	e.Metadata = nil
	msg, err := e.Message()
	require.NoError(t, err)
	require.True(t, auditlog.Canonical(msg.Payload), "nobody made a map")
}

func TestSeveralEventsInAMessageComeBackAsTheyWent(t *testing.T) {
	t.Parallel()
	e := event()
	e.Metadata = map[string]any{"text": "two\nlines", "raw": json.RawMessage("{\n\"a\":\n1}")}
	odd, err := e.Message()
	require.NoError(t, err)
	plain, err := event().Message()
	require.NoError(t, err)
	payloads := [][]byte{plain.Payload, odd.Payload, plain.Payload}

	require.Equal(t, "audit.registry.batch", auditevent.BatchSubject("registry"))
	require.Equal(t, payloads, auditevent.Split("audit.registry.batch", auditevent.Join(payloads)))
	require.Equal(t, payloads[:1], auditevent.Split("audit.registry.batch", auditevent.Join(payloads[:1])))
}

func TestOnlyABatchIsSplit(t *testing.T) {
	t.Parallel()
	lines := []byte("{\n}\n\n\n")
	require.Equal(t, [][]byte{[]byte("{"), []byte("}"), {}, {}}, auditevent.Split("audit.token.batch", lines),
		"but for the end of the last line what is no event is not left out")
	for _, subject := range []string{"audit.token.token.issued", "audit.batch", "audit.token.token.batch", "audit.token.rebatch", ""} {
		require.Equal(t, [][]byte{lines}, auditevent.Split(subject, lines), subject)
	}
}

func TestAMessageOfTooManyLinesIsLeftWhole(t *testing.T) {
	t.Parallel()
	most := bytes.Repeat([]byte("\n"), auditevent.MaxBatch)
	require.Len(t, auditevent.Split("audit.token.batch", most), auditevent.MaxBatch)
	more := append(most, '\n')
	require.Equal(t, [][]byte{more}, auditevent.Split("audit.token.batch", more))
}

func TestMetadataThatIsNoJSONIsAnError(t *testing.T) {
	t.Parallel()
	e := event()
	e.Metadata = map[string]any{"channel": make(chan int)}
	_, err := e.Message()
	require.ErrorContains(t, err, id.String())
}

func TestAUserAgentIsCleanAndShort(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ raw, want string }{
		"plain text stays":                             {"curl/8.0 (x)", "curl/8.0 (x)"},
		"control characters go":                        {"a\x00b\r\nc\x7f", "abc"},
		"invalid UTF-8 goes":                           {"a\xff\xfeb", "ab"},
		"512 bytes stay":                               {strings.Repeat("x", 512), strings.Repeat("x", 512)},
		"longer is cut":                                {strings.Repeat("x", 600), strings.Repeat("x", 512)},
		"a character is not cut in two":                {strings.Repeat("x", 511) + "é", strings.Repeat("x", 511)},
		"nor one of four bytes":                        {strings.Repeat("x", 510) + "🦊🦊", strings.Repeat("x", 510)},
		"what would only be cut by what goes is whole": {strings.Repeat("\x01", 600) + "curl", "curl"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, auditevent.CleanUserAgent(c.raw))
		})
	}
}

func FuzzAUserAgentIsAlwaysStorable(f *testing.F) {
	f.Add("curl\x00\xff")
	f.Fuzz(func(t *testing.T, raw string) {
		clean := auditevent.CleanUserAgent(raw)
		require.LessOrEqual(t, len(clean), auditevent.MaxUserAgent)
		require.True(t, utf8.ValidString(clean))
		require.NotContains(t, clean, "\x00")
	})
}
