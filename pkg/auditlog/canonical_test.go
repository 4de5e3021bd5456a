package auditlog_test

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

const event = `{"action":"token.issued","actorId":"0190c3a4-5b6d-7c11-8f0e-2f3b1d9a7c10","agentId":null,"eventId":"0190c3b1-77aa-7f3e-a0c4-5d2e8b1c9f00",` +
	`"ipAddress":"203.0.113.7","metadata":{"expiresIn":3600,"scope":"agents:read"},"outcome":"success","requestId":"r-1","schemaVersion":1,` +
	`"service":"token","timestamp":"2026-11-22T09:14:03.120518Z","userAgent":"curl/8.5.0"}`

func TestWhatIsCanonicalIsRecognised(t *testing.T) {
	t.Parallel()
	for name, payload := range map[string]string{
		"an event":                         event,
		"nothing":                          `{}`,
		"empty things":                     `{"a":"","b":{},"c":[]}`,
		"each kind of value":               `{"a":[true,false,null,"x",{"b":1}],"b":0}`,
		"names of which one begins others": `{"":0,"a":1,"aa":2,"b":3}`,
		"text outside of ASCII":            "{\"a\":\"\u20ac\U0001f600\u2028\u007f\"}",
		"every escape there is": `{"a":"\"\\\b\f\n\r\t\u0000\u0001\u0002\u0003\u0004\u0005\u0006\u0007\u000b\u000e\u000f` +
			`\u0010\u0011\u0012\u0013\u0014\u0015\u0016\u0017\u0018\u0019\u001a\u001b\u001c\u001d\u001e\u001f"}`,
		"numbers":                `{"a":[0,1,-1,100,999999999999999,9007199254740992,0.5,-0.5,1e-7,1e+21,0.30000000000000004]}`,
		"as deep as is followed": strings.Repeat(`{"a":`, 64) + "1" + strings.Repeat("}", 64),
		"as long as a leaf":      `{"a":"` + strings.Repeat("x", auditlog.MaxLeaf-8) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.True(t, auditlog.Canonical([]byte(payload)))
			leaf, err := auditlog.Canonicalize([]byte(payload))
			require.NoError(t, err)
			require.Equal(t, payload, string(leaf))
		})
	}
}

func TestWhatIsNotCanonicalIsNotTakenForIt(t *testing.T) {
	t.Parallel()
	for name, payload := range map[string]string{
		"nothing at all":                  "",
		"a list":                          `[]`,
		"a space before":                  ` {}`,
		"a space after":                   `{} `,
		"a second value":                  `{}{}`,
		"a space between":                 `{"a": 1}`,
		"names out of order":              `{"b":1,"a":2}`,
		"a name twice":                    `{"a":1,"a":2}`,
		"a name twice further in":         `{"a":[{"b":1,"b":1}]}`,
		"a comma too many":                `{"a":1,}`,
		"a comma too many in a list":      `{"a":[1,]}`,
		"a comma too few":                 `{"a":[1 2]}`,
		"a cut object":                    `{"a":1`,
		"a cut list":                      `{"a":[1`,
		"a cut word":                      `{"a":tru`,
		"a cut name":                      `{"a`,
		"a cut string":                    `{"a":"b`,
		"a cut escape":                    `{"a":"\`,
		"a cut escape of a character":     `{"a":"\u00`,
		"a name without a value":          `{"a"}`,
		"a control character in a string": "{\"a\":\"\n\"}",
		"a control character in a name":   "{\"\n\":1}",
		"bytes that are no UTF-8":         "{\"a\":\"\xff\"}",
		"an escape that is not needed":    `{"a":"\u003c"}`,
		"an escaped slash":                `{"a":"\/"}`,
		"a long escape with a short form": `{"a":"\u000a"}`,
		"an escape in capital letters":    `{"a":"\u001F"}`,
		"an escape that is none":          `{"a":"\x"}`,
		"half of a surrogate pair":        `{"a":"\ud800"}`,
		"minus zero":                      `{"a":-0}`,
		"a zero before a number":          `{"a":01}`,
		"a number of no digits":           `{"a":-}`,
		"a fraction of no digits":         `{"a":1.}`,
		"a zero after a fraction":         `{"a":0.50}`,
		"an exponent that is not needed":  `{"a":1e2}`,
		"an exponent in capitals":         `{"a":1E-7}`,
		"an exponent without its sign":    `{"a":1e21}`,
		"a number that is inexact":        `{"a":9007199254740993}`,
		"digits that a double drops":      `{"a":18446744073709551616}`,
		"a number that is infinite":       `{"a":1e+400}`,
		"a word that is none":             `{"a":nul}`,
		"one byte too many":               `{"a":"` + strings.Repeat("x", auditlog.MaxLeaf-7) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.False(t, auditlog.Canonical([]byte(payload)))
		})
	}
}

func TestWhereItIsNotSureALeafIsMadeAllTheSame(t *testing.T) {
	t.Parallel()
	for name, payload := range map[string]string{
		"names outside of ASCII":     "{\"\u20ac\":1}",
		"names with an escape":       `{"\n":1}`,
		"deeper than it is followed": strings.Repeat(`{"a":`, 65) + "1" + strings.Repeat("}", 65),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.False(t, auditlog.Canonical([]byte(payload)))
			leaf, err := auditlog.Leaf([]byte(payload))
			require.NoError(t, err)
			require.Equal(t, payload, string(leaf))
		})
	}
}

func TestRecognisingAnEventAllocatesNothing(t *testing.T) {
	payload := []byte(event)
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = auditlog.Canonical(payload) }))
}

// FuzzCanonical holds the shortcut against the library, both ways.
func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{
		event, `{"a":1}`, `{"a":"\ud83d\ude00","b":[1e2,-0.5]}`, `{"a":{"a":{}}}`, `{"a":1,"a":1}`, `{"a":"\u001f\n\\"}`,
		`{"a":[0,-1,1e-7,1e+21,0.30000000000000004,true,false,null]}`, `{ "b":1 , "a":[] }`, "{\"\u20ac\":\"\u20ac\"}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		leaf, err := auditlog.Canonicalize(payload)
		if auditlog.Canonical(payload) {
			require.NoError(t, err)
			require.Equal(t, string(payload), string(leaf))
		}
		got, gotErr := auditlog.Leaf(payload)
		require.Equal(t, err, gotErr)
		require.Equal(t, string(leaf), string(got))
		if err == nil && !doubtful(leaf) {
			require.True(t, auditlog.Canonical(leaf))
		}
	})
}

// doubtful tells whether a leaf may have names that are not plain ASCII, or may be nested deep.
func doubtful(leaf []byte) bool {
	nested := strings.Count(string(leaf), "{") + strings.Count(string(leaf), "[")
	return nested > 64 || strings.Contains(string(leaf), `\`) || utf8.RuneCount(leaf) != len(leaf)
}

func BenchmarkLeaf(b *testing.B) {
	for name, payload := range map[string]string{"canonical": event, "other": " " + event} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := auditlog.Leaf([]byte(payload)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestTheFieldsOfALeafAreReadInTheirOrder(t *testing.T) {
	t.Parallel()
	for leaf, want := range map[string][]string{
		`{}`:                               nil,
		`{"a":1}`:                          {"a", "1"},
		`{"":"","a":"}","b":"\"\\","c":0}`: {"", `""`, "a", `"}"`, "b", `"\"\\"`, "c", "0"},
		`{"\"":null,"a":{"b":[{"c":"]"}],"d":1},"e":[1,"}",[]],"f":-1e-7}`: {`\"`, "null", "a", `{"b":[{"c":"]"}],"d":1}`, "e", `[1,"}",[]]`, "f", "-1e-7"},
	} {
		var got []string
		for name, value := range auditlog.Fields([]byte(leaf)) {
			got = append(got, string(name), string(value))
		}
		require.Equal(t, want, got, leaf)
	}
	for name := range auditlog.Fields([]byte(event)) {
		require.Equal(t, "action", string(name))
		break
	}
}

// FuzzFields holds the fields against package json.
func FuzzFields(f *testing.F) {
	for _, seed := range []string{event, `{"a":"\u001f}","b":[1e2,[],{}],"\n":{}}`, `{"a":{"a":{}}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		leaf, err := auditlog.Leaf(payload)
		if err != nil {
			return
		}
		var want map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(leaf, &want))
		count := 0
		for name, value := range auditlog.Fields(leaf) {
			var plain string
			require.NoError(t, json.Unmarshal([]byte(`"`+string(name)+`"`), &plain))
			require.Contains(t, want, plain)
			require.Equal(t, string(want[plain]), string(value))
			count++
		}
		require.Len(t, want, count)
	})
}

// TestTheShortcutAgreesWithTheLibrary is what the fuzz test does, for texts that are JSON or nearly so: made from a
// seed, in canonical form, and with a few bytes changed.
func TestTheShortcutAgreesWithTheLibrary(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	taken, refused := 0, 0
	for range 20_000 {
		payload := appendObject(random, nil, 3)
		if leaf, err := auditlog.Canonicalize(payload); err == nil && random.IntN(4) > 0 {
			payload = slices.Clone(leaf)
			require.True(t, doubtful(leaf) || auditlog.Canonical(leaf), string(leaf))
		}
		for range random.IntN(3) {
			payload[random.IntN(len(payload))] = pieces[random.IntN(len(pieces))]
		}
		leaf, err := auditlog.Canonicalize(payload)
		same := err == nil && string(leaf) == string(payload)
		if auditlog.Canonical(payload) {
			require.True(t, same, string(payload))
			taken++
		} else {
			require.True(t, !same || doubtful(leaf), string(payload))
			refused++
		}
	}
	require.Greater(t, taken, 1000)
	require.Greater(t, refused, 1000)
}

// pieces are the bytes that JSON is made of.
const pieces = "{}[]:,\"\\u0123456789abcdefntr-+.E x\n\x00\x1f\x7f\x80\xc3\xa9/"

func appendObject(random *rand.Rand, dst []byte, depth int) []byte {
	dst = append(dst, '{')
	for i := range random.IntN(4) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(dst, '"'), randomText(random, 2)...)
		dst = appendValue(random, append(dst, '"', ':'), depth)
	}
	return append(dst, '}')
}

func appendValue(random *rand.Rand, dst []byte, depth int) []byte {
	switch n := random.IntN(10); {
	case n < 2 && depth > 0:
		return appendObject(random, dst, depth-1)
	case n < 4 && depth > 0:
		dst = appendValue(random, append(dst, '['), depth-1)
		return append(appendValue(random, append(dst, ','), depth-1), ']')
	case n < 6:
		numbers := []string{"0", "-0", "7", "-12", "01", "1.0", "1.50", "0.5", "1e2", "1e+21", "1e21", "1E-7", "1e-7", "123456789012345", "9007199254740993", "18446744073709552000"}
		return append(dst, numbers[random.IntN(len(numbers))]...)
	case n < 7:
		return append(dst, []string{"true", "false", "null"}[random.IntN(3)]...)
	}
	return append(append(append(dst, '"'), randomText(random, 6)...), '"')
}

func randomText(random *rand.Rand, most int) string {
	parts := []string{"a", "b", "Z", "1", " ", "/", "<", `\n`, `\\`, `\"`, `\u0000`, `\u001f`, `\u000A`, `\u0009`, `\u0041`, `\ud83d\ude00`, `\ud800`, "é", "\u2028", "\U0001f600"}
	var text strings.Builder
	for range random.IntN(most + 1) {
		text.WriteString(parts[min(random.IntN(len(parts)), random.IntN(len(parts)))])
	}
	return text.String()
}
