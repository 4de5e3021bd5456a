package auditlog_test

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

func TestALeafIsCanonical(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ payload, leaf string }{
		"fields are sorted and spaces gone":       {"{ \"b\" : 1,\n\t\"a\":[ true , null ] }", `{"a":[true,null],"b":1}`},
		"the order is that of UTF-16":             {`{"\u20ac":1,"\ud83d\ude00":2,"\ufb33":3,"1":4}`, "{\"1\":4,\"\u20ac\":1,\"\U0001f600\":2,\"\ufb33\":3}"},
		"escapes are undone":                      {`{"a":"\u0041\/\u003c"}`, `{"a":"A/<"}`},
		"control characters stay escaped":         {`{"a":"\u0000\u001f\n"}`, `{"a":"\u0000\u001f\n"}`},
		"fields that nobody knows stay":           {`{"schemaVersion":1,"later":{"x":[]}}`, `{"later":{"x":[]},"schemaVersion":1}`},
		"numbers have one form":                   {`{"a":[1.0,1e2,-0,0.10,1E-7]}`, `{"a":[1,100,0,0.1,1e-7]}`},
		"the largest exact whole number":          {`{"a":9007199254740992}`, `{"a":9007199254740992}`},
		"seventeen digits that a double gives":    {`{"a":0.30000000000000004}`, `{"a":0.30000000000000004}`},
		"a number in a string is no number":       {`{"a":"9007199254740993","\"1":"\\"}`, `{"\"1":"\\","a":"9007199254740993"}`},
		"an exponent that leaves the value exact": {`{"a":1234567890123456e-3}`, `{"a":1234567890123.456}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leaf, err := auditlog.Leaf([]byte(test.payload))
			require.NoError(t, err)
			require.Equal(t, test.leaf, string(leaf))
			again, err := auditlog.Leaf(leaf)
			require.NoError(t, err)
			require.Equal(t, leaf, again, "the canonical form of a canonical form is itself")
		})
	}
}

func TestWhatCouldBeReadInTwoWaysIsNoLeaf(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		payload string
		want    error
	}{
		"nothing":                         {"", auditlog.ErrNotObject},
		"a list":                          {"[]", auditlog.ErrNotObject},
		"a word":                          {"null", auditlog.ErrNotObject},
		"two objects":                     {"{}{}", auditlog.ErrNotObject},
		"a cut object":                    {`{"a":`, auditlog.ErrNotObject},
		"bytes that are no UTF-8":         {"{\"a\":\"\xff\"}", auditlog.ErrNotObject},
		"a field named twice":             {`{"a":1,"b":2,"a":1}`, auditlog.ErrAmbiguous},
		"a field named twice by escape":   {`{"a":1,"\u0061":1}`, auditlog.ErrAmbiguous},
		"a field named twice further in":  {`{"m":[{"a":1,"a":2}]}`, auditlog.ErrAmbiguous},
		"half a surrogate pair":           {`{"a":"\ud800"}`, auditlog.ErrAmbiguous},
		"a pair the wrong way round":      {`{"a":"\udc00\ud800"}`, auditlog.ErrAmbiguous},
		"a whole number beyond doubles":   {`{"a":9007199254740993}`, auditlog.ErrInexact},
		"a fraction beyond doubles":       {`{"a":0.1000000000000000055511151231257827}`, auditlog.ErrInexact},
		"digits that ECMAScript drops":    {`{"a":18446744073709551616}`, auditlog.ErrInexact},
		"a number that is infinite":       {`{"a":1e400}`, auditlog.ErrInexact},
		"a number that becomes nothing":   {`{"a":1e-400}`, auditlog.ErrInexact},
		"an exponent without end":         {`{"a":1e99999999999999999999}`, auditlog.ErrInexact},
		"one byte too many":               {`{"a":"` + strings.Repeat("x", auditlog.MaxLeaf-7) + `"}`, auditlog.ErrLeafTooBig},
		"as large as control characters ": {`{"a":"` + strings.Repeat(`\u0001`, 11000) + `"}`, auditlog.ErrLeafTooBig},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := auditlog.Leaf([]byte(test.payload))
			require.ErrorIs(t, err, test.want)
		})
	}
	largest := `{"a":"` + strings.Repeat("x", auditlog.MaxLeaf-8) + `"}`
	leaf, err := auditlog.Leaf([]byte(largest))
	require.NoError(t, err)
	require.Len(t, leaf, auditlog.MaxLeaf)
}

func TestALeafIsHashedAsTheStandardSays(t *testing.T) {
	t.Parallel()
	// RFC 6962 test vectors, as certificate transparency's own tests have them.
	for leaf, want := range map[string]string{
		"":                  "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		"\x00":              "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
		" !\"#$%&'()*+,-./": leafHashOf(t, " !\"#$%&'()*+,-./"),
	} {
		hash := auditlog.HashLeaf([]byte(leaf))
		require.Equal(t, want, hex.EncodeToString(hash[:]), fmt.Sprintf("%q", leaf))
	}
}

func FuzzLeaf(f *testing.F) {
	for _, seed := range []string{`{"a":1}`, `{"a":"\ud83d\ude00","b":[1e2,-0.5]}`, `{"a":{"a":{}}}`, `{"a":1,"a":1}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		leaf, err := auditlog.Leaf(payload)
		if err != nil {
			return
		}
		again, err := auditlog.Leaf(leaf)
		require.NoError(t, err)
		require.Equal(t, string(leaf), string(again))
	})
}

func TestACheckpointHasASizeThatCanBeComputedWith(t *testing.T) {
	t.Parallel()
	largest := auditlog.Checkpoint{Origin: "example.com/audit", Size: auditlog.MaxSize, Root: auditlog.HashLeaf(nil)}
	got, err := auditlog.ParseCheckpoint(largest.String())
	require.NoError(t, err)
	require.Equal(t, largest, got)
	largest.Size++
	_, err = auditlog.ParseCheckpoint(largest.String())
	require.ErrorIs(t, err, auditlog.ErrNotCheckpoint)
}
