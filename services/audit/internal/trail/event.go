// Package trail is the audit trail: what an event is, which events a caller may
// see, and what a store of events must promise. It decodes what publishers wrote
// and keeps their bytes untouched, because those bytes are the record. It knows
// no HTTP, SQL or NATS, and offers no way to change or remove an event.
package trail

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// SchemaVersion is the version of the event's form that this package reads. New
// optional fields do not change it.
const SchemaVersion = 1

// Outcomes an event can have.
const (
	OutcomeSuccess = "success"
	OutcomeFailure = "failure"
)

// MaxIDDrift is how far the time in an event's id may be from the event's own. The
// days around the former are then all where another event under this id can be.
const MaxIDDrift = 24 * time.Hour

// The longest words of an action, and the longest name of a service, in bytes.
const (
	maxWord    = 32
	maxService = 64
)

// Resolution is the precision of an event's time, that of the database.
const Resolution = time.Microsecond

// Event is one thing that happened.
type Event struct {
	ID        uuid.UUID
	Timestamp time.Time  // UTC, whole microseconds
	AgentID   *uuid.UUID // the agent it is about, nil if there is none
	ActorID   *uuid.UUID // who did it, nil if unauthenticated
	Action    string     // as in agent.created
	Outcome   string     // OutcomeSuccess or OutcomeFailure
	Service   string     // who published it
	IPAddress string
	UserAgent string
	RequestID string
	Metadata  json.RawMessage // always a JSON object
	Payload   []byte          // the event as published, byte for byte
}

// wire is the published form. Fields it does not name are not lost: they stay in
// Event.Payload.
type wire struct {
	SchemaVersion int             `json:"schemaVersion"`
	EventID       uuid.UUID       `json:"eventId"`
	Timestamp     time.Time       `json:"timestamp"`
	AgentID       *uuid.UUID      `json:"agentId"`
	ActorID       *uuid.UUID      `json:"actorId"`
	Action        string          `json:"action"`
	Outcome       string          `json:"outcome"`
	IPAddress     string          `json:"ipAddress"`
	UserAgent     string          `json:"userAgent"`
	Service       string          `json:"service"`
	RequestID     string          `json:"requestId"`
	Metadata      json.RawMessage `json:"metadata"`
}

// Decode reads one published event. Its errors say what is wrong without
// repeating the payload, so that they can be stored and logged. The event keeps
// payload itself, not a copy.
func Decode(payload []byte) (Event, error) {
	return decode(payload, auditlog.Canonical(payload))
}

// decode is Decode where it is known whether payload is canonical.
func decode(payload []byte, canonical bool) (Event, error) {
	var w wire
	if !canonical || !w.scan(payload) {
		if !utf8.Valid(payload) {
			return Event{}, errors.New("not valid UTF-8")
		}
		w = wire{}
		if err := json.Unmarshal(payload, &w); err != nil {
			return Event{}, fmt.Errorf("not an event: %w", describe(err))
		}
	}
	if err := w.check(); err != nil {
		return Event{}, err
	}
	return Event{
		ID:        w.EventID,
		Timestamp: w.Timestamp.UTC().Truncate(Resolution),
		AgentID:   w.AgentID,
		ActorID:   w.ActorID,
		Action:    w.Action,
		Outcome:   w.Outcome,
		Service:   w.Service,
		IPAddress: w.IPAddress,
		UserAgent: w.UserAgent,
		RequestID: w.RequestID,
		Metadata:  metadata(w.Metadata),
		Payload:   payload,
	}, nil
}

func (w *wire) check() error {
	switch year := w.Timestamp.UTC().Year(); {
	case w.SchemaVersion != SchemaVersion:
		return fmt.Errorf("schemaVersion %d is not supported", w.SchemaVersion)
	case w.EventID == uuid.Nil:
		return errors.New("eventId is missing")
	case w.Timestamp.IsZero():
		return errors.New("timestamp is missing")
	case year < 1 || year > 9999:
		return errors.New("timestamp is out of range")
	case !isAction(w.Action):
		return errors.New("action is missing or malformed")
	case w.Outcome != OutcomeSuccess && w.Outcome != OutcomeFailure:
		return errors.New("outcome is neither success nor failure")
	case !isService(w.Service):
		return errors.New("service is missing or malformed")
	case !isObject(w.Metadata):
		return errors.New("metadata is not a JSON object")
	}
	return nil
}

// describe keeps the words of a JSON error and drops the value it may quote.
func describe(err error) error {
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) && wrongType.Field != "" {
		return fmt.Errorf("%s has the wrong type", wrongType.Field)
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("invalid JSON at byte %d", syntax.Offset)
	}
	return errors.New("a field has a malformed value")
}

func isObject(raw json.RawMessage) bool {
	return absent(raw) || bytes.HasPrefix(raw, []byte("{"))
}

func absent(raw json.RawMessage) bool {
	return len(raw) == 0 || string(raw) == "null"
}

func metadata(raw json.RawMessage) json.RawMessage {
	if absent(raw) {
		return json.RawMessage("{}")
	}
	return raw
}

// isAction tells whether text is two words with a point between them. Actions and services are
// open ended: an event of a newer publisher, with an action this version has never heard of, is
// stored and shown all the same.
func isAction(text string) bool {
	subject, verb, _ := strings.Cut(text, ".")
	return isWord(subject, "_", maxWord) && isWord(verb, "_", maxWord)
}

func isService(text string) bool { return isWord(text, "-0123456789", maxService) }

// isWord tells whether text is a small letter and then small letters and others, at most most.
func isWord(text, others string, most int) bool {
	if text == "" || len(text) > most {
		return false
	}
	for i, c := range []byte(text) {
		if (c < 'a' || c > 'z') && (i == 0 || strings.IndexByte(others, c) < 0) {
			return false
		}
	}
	return true
}
