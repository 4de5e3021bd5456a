package postgres_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"

	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/audit/internal/postgres"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

const (
	childDatabase = "AUDIT_TEST_CHILD_DATABASE"
	childKey      = "AUDIT_TEST_CHILD_KEY"
	childPublic   = "AUDIT_TEST_CHILD_PUBLIC"
)

// TestSequencerProcess is a sequencer as a process, which the test below kills while it holds the tree. By itself it does
// nothing.
func TestSequencerProcess(t *testing.T) {
	if os.Getenv(childDatabase) == "" {
		// Not a test that is left out: the one below runs it, as a process that it can kill.
		t.Skip("only as a child of the test that kills sequencers")
	}
	signer, err := note.NewSigner(os.Getenv(childKey))
	require.NoError(t, err)
	held := &stuck{Signer: signer, frozen: make(chan struct{}), thaw: make(chan struct{})}
	cfg := sequencing(testkit.Open(t, os.Getenv(childDatabase)), testkit.LogKey{Signer: held, Public: os.Getenv(childPublic)})
	go func() { _, _ = postgres.NewSequencer(cfg).Record(context.Background(), events(t, 1000, 10)) }()
	<-held.frozen
	_, _ = os.Stdout.WriteString("holding\n")
	<-held.thaw // for ever
}

func TestASequencerThatIsKilledIsFollowedByAnother(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	db := testkit.Open(t, database.AppURL)
	store := open(t, db)
	record(t, store, events(t, 0, 10)...)
	for round := range uint64(3) {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSequencerProcess$") // #nosec G204 -- this very test binary
		child.Env = append(os.Environ(), childDatabase+"="+database.AppURL, childKey+"="+store.key.Secret, childPublic+"="+store.key.Public)
		out, err := child.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, child.Start())
		t.Cleanup(func() { _ = child.Process.Kill() })
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "holding\n", line)

		require.NoError(t, child.Process.Kill())
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		verdicts, err := store.Record(ctx, events(t, 10+10*round, 10))
		cancel()
		require.NoError(t, err, "another goes on within 5 s")
		require.NotContains(t, verdicts, trail.Retry)
		_ = child.Wait()
	}
	requireLog(t, db, store.key, 40)
}
