package config

import (
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Secret is a setting that must not be seen: however it is printed, logged or
// encoded, it shows "[redacted]" (or nothing, if it is empty). Only Reveal
// gives the value.
//
// Two places are out of its reach, as neither fmt nor encoding/json asks it
// there: keep it out of unexported fields of structs that get printed, and
// never make it the key of a map.
type Secret string

var (
	_ fmt.Formatter  = Secret("")
	_ fmt.GoStringer = Secret("")
	_ slog.LogValuer = Secret("")
)

// Reveal returns the value.
func (s Secret) Reveal() string { return string(s) }

// String redacts.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString redacts.
func (s Secret) GoString() string { return `config.Secret("` + s.String() + `")` }

// Format redacts for every verb, %x and %d among them.
func (s Secret) Format(w fmt.State, verb rune) {
	text := s.String()
	if verb == 'v' && w.Flag('#') {
		text = s.GoString()
	}
	_, _ = io.WriteString(w, text)
}

// LogValue redacts.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalJSON redacts.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }

// MarshalText redacts.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
