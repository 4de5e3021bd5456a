package testkit

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"
)

// Log is what a program under test has written so far; it may be read while it is written. It starts empty.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write adds to it.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String is all of it.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Count is how often a text stands in it.
func (l *Log) Count(text string) int { return strings.Count(l.String(), text) }

// Lines are the fields of every line of a JSON log with this message.
func (l *Log) Lines(tb testing.TB, msg string) []map[string]any {
	tb.Helper()
	var list []map[string]any
	for text := range strings.Lines(l.String()) {
		var line map[string]any
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			tb.Fatalf("read the log line %q: %v", text, err)
		}
		if line["msg"] == msg {
			list = append(list, line)
		}
	}
	return list
}
