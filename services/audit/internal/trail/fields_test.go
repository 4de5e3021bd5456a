package trail

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

const published = `{"action":"auth.failed","actorId":null,"agentId":"0190c3a4-5b6d-7c11-8f0e-2f3b1d9a7c10","eventId":"0190c3b1-77aa-7f3e-a0c4-5d2e8b1c9f00",` +
	`"ipAddress":"203.0.113.7","later":[{"outcome":1}],"metadata":{"reason":"invalid_secret"},"outcome":"failure","requestId":"r-1","schemaVersion":1,` +
	`"service":"token","timestamp":"2026-11-22T09:14:03.120518Z","userAgent":"curl/8.5.0"}`

func TestTheNamesAreThoseOfTheFields(t *testing.T) {
	t.Parallel()
	var tags []string
	for field := range reflect.TypeFor[wire]().Fields() {
		tags = append(tags, field.Tag.Get("json"))
	}
	all := names()
	require.ElementsMatch(t, tags, all[:])
	for _, name := range all {
		require.True(t, known([]byte(name)))
		require.True(t, resembles([]byte(strings.ToUpper(name))), name)
		require.False(t, known([]byte(strings.ToUpper(name))), name)
		require.False(t, resembles([]byte(name+"s")), name)
	}
}

func TestWhatPublishersWriteIsScanned(t *testing.T) {
	t.Parallel()
	var scanned, decoded wire
	require.True(t, scanned.scan([]byte(published)))
	require.NoError(t, json.Unmarshal([]byte(published), &decoded))
	require.Equal(t, decoded, scanned)
	for what, leaf := range map[string]string{
		"a string with an escape":          strings.Replace(published, "curl/8.5.0", `curl\"`, 1),
		"null for a string":                strings.Replace(published, `"curl/8.5.0"`, `null`, 1),
		"a number for a string":            strings.Replace(published, `"curl/8.5.0"`, `1`, 1),
		"a version that is no number":      strings.Replace(published, `"schemaVersion":1`, `"schemaVersion":"1"`, 1),
		"an id that is none":               strings.Replace(published, "0190c3b1-", "x", 1),
		"a time that is none":              strings.Replace(published, "2026-11-22T", "x", 1),
		"a field that differs by its case": strings.Replace(published, `"later"`, `"aCTION"`, 1),
	} {
		require.False(t, new(wire).scan([]byte(leaf)), what)
	}
}

func TestLookingForLookalikesAllocatesNothing(t *testing.T) {
	leaf := []byte(published)
	require.False(t, lookalike(leaf))
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = lookalike(leaf) }))
}

// FuzzScan holds the shortcut against package json: what is scanned is what json reads, and
// the same payloads are events.
func FuzzScan(f *testing.F) {
	f.Add([]byte(published))
	f.Add([]byte(strings.Replace(published, `"metadata":{"reason":"invalid_secret"}`, `"metadata":null`, 1)))
	f.Add([]byte(strings.Replace(published, "03.120518Z", "03+01:00", 1)))
	f.Add([]byte(strings.Replace(published, `"later"`, `"aCTION"`, 1)))
	f.Add([]byte(`{"schemaVersion":1e+21}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		leaf, err := auditlog.Leaf(payload)
		if err != nil {
			return
		}
		var scanned, decoded wire
		if scanned.scan(leaf) {
			require.NoError(t, json.Unmarshal(leaf, &decoded))
			require.Equal(t, decoded, scanned)
			require.False(t, lookalike(leaf))
		}
		fast, fastErr := decode(leaf, true)
		slow, slowErr := decode(leaf, false)
		require.Equal(t, slowErr, fastErr)
		require.Equal(t, slow, fast)
	})
}

func BenchmarkReceive(b *testing.B) {
	for b.Loop() {
		if d := Receive(Origin{}, []byte(published)); d.Reject != "" {
			b.Fatal(d.Reject)
		}
	}
}
