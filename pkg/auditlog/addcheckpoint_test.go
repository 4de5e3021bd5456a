package auditlog_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

func TestARequestToAWitnessHasTheFormOfTheStandard(t *testing.T) {
	t.Parallel()
	hash := auditlog.HashLeaf(nil)
	checkpoint := "example.com/audit\n3\n" + hash.String() + "\n\n— example.com/audit AAAA\n"
	for body, want := range map[string]auditlog.AddCheckpoint{
		"old 0\n\n" + checkpoint: {Checkpoint: []byte(checkpoint)},
		"old 2\n" + hash.String() + "\n" + hash.String() + "\n\n" + checkpoint: {
			Old: 2, Proof: []tlog.Hash{hash, hash}, Checkpoint: []byte(checkpoint),
		},
	} {
		require.Equal(t, body, string(want.Encode()))
		got, err := auditlog.ParseAddCheckpoint([]byte(body))
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for name, body := range map[string]string{
		"nothing":                 "",
		"no size":                 "\n\n" + checkpoint,
		"a negative size":         "old -1\n\n" + checkpoint,
		"a size with a zero":      "old 02\n\n" + checkpoint,
		"a size that is too much": "old 9223372036854775808\n\n" + checkpoint,
		"a size of no log":        "old 1152921504606846977\n\n" + checkpoint,
		"a carriage return":       "old 2\n" + hash.String() + "\r\n\n" + checkpoint,
		"a proof that is none":    "old 2\nAAAA\n\n" + checkpoint,
		"a proof without end":     "old 2\n" + strings.Repeat(hash.String()+"\n", 64) + "\n" + checkpoint,
		"no checkpoint":           "old 2\n" + hash.String() + "\n",
	} {
		_, err := auditlog.ParseAddCheckpoint([]byte(body))
		require.Error(t, err, name)
	}
}
