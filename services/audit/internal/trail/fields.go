package trail

import (
	"bytes"
	"strconv"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// scan reads an event in canonical form, as publishers write it, in a fraction of the time
// of package json. It knows only what an event has as a rule, and tells whether that was
// all; where it was not, json has to read the event, and w is of no meaning.
func (w *wire) scan(leaf []byte) bool {
	for name, value := range auditlog.Fields(leaf) {
		if !w.take(name, value) {
			return false
		}
	}
	return true
}

func (w *wire) take(name, value []byte) bool {
	switch string(name) {
	case "schemaVersion":
		version, err := strconv.Atoi(string(value))
		w.SchemaVersion = version
		return err == nil
	case "eventId":
		return identifier(value, &w.EventID)
	case "timestamp":
		text, plain := unquote(value)
		return plain && w.Timestamp.UnmarshalText(text) == nil
	case "agentId":
		return optional(value, &w.AgentID)
	case "actorId":
		return optional(value, &w.ActorID)
	case "action":
		return word(value, &w.Action)
	case "outcome":
		return word(value, &w.Outcome)
	case "ipAddress":
		return word(value, &w.IPAddress)
	case "userAgent":
		return word(value, &w.UserAgent)
	case "service":
		return word(value, &w.Service)
	case "requestId":
		return word(value, &w.RequestID)
	case "metadata":
		w.Metadata = value
		return true
	}
	return !resembles(name)
}

// lookalike tells whether a leaf has a field whose name is that of one of wire's but for
// its case. Package json decodes it as that one, and other readers of the leaf do not: what
// is shown would not be what is proven.
func lookalike(leaf []byte) bool {
	for name := range auditlog.Fields(leaf) {
		if !known(name) && resembles(name) {
			return true
		}
	}
	return false
}

// names are those of wire's fields.
func names() [12]string {
	return [...]string{
		"schemaVersion", "eventId", "timestamp", "agentId", "actorId", "action", "outcome",
		"ipAddress", "userAgent", "service", "requestId", "metadata",
	}
}

func known(name []byte) bool {
	for _, field := range names() {
		if string(name) == field {
			return true
		}
	}
	return false
}

// resembles tells whether a name is one of wire's where case does not count. One that has
// to be written with an escape is none.
func resembles(name []byte) bool {
	for _, field := range names() {
		if bytes.EqualFold(name, []byte(field)) {
			return true
		}
	}
	return false
}

// unquote is what a string holds that has no escape.
func unquote(value []byte) (text []byte, plain bool) {
	if len(value) < 2 || value[0] != '"' || bytes.IndexByte(value, '\\') >= 0 {
		return nil, false
	}
	return value[1 : len(value)-1], true
}

func word(value []byte, into *string) bool {
	text, plain := unquote(value)
	*into = string(text)
	return plain
}

func identifier(value []byte, into *uuid.UUID) bool {
	text, plain := unquote(value)
	return plain && into.UnmarshalText(text) == nil
}

func optional(value []byte, into **uuid.UUID) bool {
	if string(value) == "null" {
		return true
	}
	*into = new(uuid.UUID)
	return identifier(value, *into)
}
