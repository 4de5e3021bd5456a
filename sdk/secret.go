package agentidp

import "log/slog"

// Secret is a value that must not appear in a log: printed, logged or encoded it
// shows as [redacted].
type Secret string

const redacted = "[redacted]"

// Reveal returns the value itself.
func (s Secret) Reveal() string { return string(s) }

func (s Secret) String() string { return redacted }

// GoString keeps %#v from showing the value.
func (s Secret) GoString() string { return redacted }

// LogValue keeps slog from showing the value.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText keeps encoders from writing the value. To store it, use Reveal.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
