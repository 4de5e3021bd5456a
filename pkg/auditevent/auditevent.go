// Package auditevent is the wire form of an audit event: what every service publishes and the audit
// service stores. It must hold no secret, and it decides nothing about who may read an event.
package auditevent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/timeid"
)

// SchemaVersion of the events that New makes.
const SchemaVersion = 1

// MaxUserAgent is how many bytes of a user agent an event keeps.
const MaxUserAgent = 512

// Action says what happened.
type Action string

// The actions there are.
const (
	AgentCreated        Action = "agent.created"
	AgentUpdated        Action = "agent.updated"
	AgentSuspended      Action = "agent.suspended"
	AgentReactivated    Action = "agent.reactivated"
	AgentDecommissioned Action = "agent.decommissioned"
	AgentKeysUpdated    Action = "agent.keys_updated"
	CredentialGenerated Action = "credential.generated" // #nosec G101 -- a word of the protocol
	CredentialRotated   Action = "credential.rotated"   // #nosec G101 -- a word of the protocol
	CredentialRevoked   Action = "credential.revoked"   // #nosec G101 -- a word of the protocol
	TokenIssued         Action = "token.issued"
	TokenIntrospected   Action = "token.introspected"
	TokenRevoked        Action = "token.revoked"
	AuthFailed          Action = "auth.failed"
)

// Actions lists all actions, in the order of the constants.
func Actions() []Action {
	return []Action{
		AgentCreated, AgentUpdated, AgentSuspended, AgentReactivated, AgentDecommissioned, AgentKeysUpdated,
		CredentialGenerated, CredentialRotated, CredentialRevoked,
		TokenIssued, TokenIntrospected, TokenRevoked, AuthFailed,
	}
}

// Outcome says whether it succeeded.
type Outcome string

// The outcomes there are.
const (
	Success Outcome = "success"
	Failure Outcome = "failure"
)

// The reasons that the metadata of an auth.failed event gives under "reason".
const (
	ReasonAgentNotFound       = "agent_not_found"
	ReasonInvalidSecret       = "invalid_secret" // #nosec G101 -- a word of the protocol
	ReasonInvalidAssertion    = "invalid_assertion"
	ReasonCredentialExpired   = "credential_expired" // #nosec G101 -- a word of the protocol
	ReasonAgentSuspended      = "agent_suspended"
	ReasonAgentDecommissioned = "agent_decommissioned"
	ReasonQuotaExceeded       = "quota_exceeded"
)

// Origin says who acted, and from where. ActorID is nil when nobody was authenticated.
type Origin struct {
	ActorID   *uuid.UUID `json:"actorId"`
	IPAddress string     `json:"ipAddress"`
	UserAgent string     `json:"userAgent"`
	RequestID string     `json:"requestId"`
}

// Event is one audit event. AgentID is the agent it is about (nil if there is none). The fields are in the
// order of their JSON names, so that Message writes them in it.
type Event struct {
	Action        Action         `json:"action"`
	ActorID       *uuid.UUID     `json:"actorId"`
	AgentID       *uuid.UUID     `json:"agentId"`
	EventID       uuid.UUID      `json:"eventId"`
	IPAddress     string         `json:"ipAddress"`
	Metadata      map[string]any `json:"metadata"`
	Outcome       Outcome        `json:"outcome"`
	RequestID     string         `json:"requestId"`
	SchemaVersion int            `json:"schemaVersion"`
	Service       string         `json:"service"`
	Timestamp     time.Time      `json:"timestamp"`
	UserAgent     string         `json:"userAgent"`
}

// New makes an event: the time in UTC and cut to microseconds, which is what the database keeps;
// the user agent cut to MaxUserAgent bytes of clean text; the outcome failure for AuthFailed and
// success for all other actions. metadata may be nil and must hold no secret.
func New(id uuid.UUID, at time.Time, service string, action Action, agentID *uuid.UUID, origin Origin, metadata map[string]any) Event {
	outcome := Success
	if action == AuthFailed {
		outcome = Failure
	}
	if metadata == nil {
		metadata = map[string]any{}
	}
	return Event{
		SchemaVersion: SchemaVersion,
		EventID:       idOf(id, at),
		Timestamp:     at.UTC().Truncate(time.Microsecond),
		AgentID:       agentID,
		ActorID:       origin.ActorID,
		Action:        action,
		Outcome:       outcome,
		IPAddress:     origin.IPAddress,
		UserAgent:     CleanUserAgent(origin.UserAgent),
		Service:       service,
		RequestID:     origin.RequestID,
		Metadata:      metadata,
	}
}

// idOf is the id, with the event's time where it tells of another. The trail refuses an event whose id tells of another
// day, and the clock of ids does not go back where the machine's was days ahead and was put right. Otherwise ids stay as
// they are, for those of one process are in order.
func idOf(id uuid.UUID, at time.Time) uuid.UUID {
	if made, has := timeid.Of(id); has && made.Sub(at).Abs() > time.Minute {
		return timeid.At(id, at)
	}
	return id
}

// Message is the event as the outbox takes it, on the subject audit.<service>.<action>. Its payload is in the canonical
// form of RFC 8785 already, as a rule: whoever makes a leaf of the audit log of it finds little to do. Text and numbers
// for which that form is not that of package json make no difference to anybody, but cost the audit service time.
func (e Event) Message() (outbox.Message, error) {
	var payload bytes.Buffer
	payload.Grow(usualBytes)
	encoder := json.NewEncoder(&payload)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(e); err != nil {
		return outbox.Message{}, fmt.Errorf("encode audit event %s: %w", e.EventID, err)
	}
	return outbox.Message{
		ID:      e.EventID,
		Subject: "audit." + e.Service + "." + string(e.Action),
		Payload: bytes.TrimSuffix(payload.Bytes(), []byte("\n")),
	}, nil
}

// usualBytes is enough for most events.
const usualBytes = 640

// batchWord is what a subject has in the place of an action where a message holds several events.
const batchWord = "batch"

// MaxBatch is the most events that one message may hold: what takes it has them all in memory at once.
const MaxBatch = 500

// BatchSubject is the subject audit.<service>.batch, of messages whose payload Join made.
func BatchSubject(service string) string { return "audit." + service + "." + batchWord }

// Join makes one payload of those of several messages, MaxBatch at the most, an event a line (JSON Lines): what Message writes
// has no line break in it.
func Join(payloads [][]byte) []byte { return bytes.Join(payloads, []byte("\n")) }

// Split is the payloads of the events in a message, which has one, or else a line for each. It copies nothing, and judges
// nothing: where a line is empty or no event, it is among them all the same. What has more than MaxBatch lines is left as it is,
// which is no event.
func Split(subject string, payload []byte) [][]byte {
	whole := [][]byte{payload}
	if strings.Count(subject, ".") != 2 || !strings.HasSuffix(subject, "."+batchWord) {
		return whole
	}
	ended := bytes.TrimSuffix(payload, []byte("\n")) // as editors leave a file, and JSON Lines allows
	if bytes.Count(ended, []byte("\n")) >= MaxBatch {
		return whole
	}
	return bytes.Split(ended, []byte("\n"))
}

// CleanUserAgent makes text from outside storable: valid UTF-8 without control characters, cut to
// MaxUserAgent bytes between two characters.
func CleanUserAgent(raw string) string {
	clean := strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) {
			return -1
		}
		return r
	}, raw)
	if len(clean) <= MaxUserAgent {
		return clean
	}
	cut := MaxUserAgent
	for cut > 0 && !utf8.RuneStart(clean[cut]) {
		cut--
	}
	return clean[:cut]
}
