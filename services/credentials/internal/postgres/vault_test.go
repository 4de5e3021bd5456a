package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
)

// inVault is a secret that Vault has.
func inVault(version int) *secret.Sealed {
	return &secret.Sealed{Version: version, Fingerprint: secret.FingerprintOf(secret.Generate())}
}

// discard stores a change that leaves these deletions.
func (f *fixture) discard(t *testing.T, r secret.Record, deletions ...secret.Deletion) {
	t.Helper()
	require.NoError(t, f.Change(t.Context(), r.AgentID, r.ID, func(r *secret.Record) ([]outbox.Message, error) {
		r.Unwanted = deletions
		return nil, nil
	}))
}

func TestASecretInVaultIsStoredAsItsVersionAlone(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r := record(uuid.New(), start)
	r.Current = inVault(3)
	f.insert(t, r)
	require.Equal(t, r, f.stored(t, r.AgentID, r.ID))

	until := start.Add(time.Hour)
	old := r.Current
	require.NoError(t, f.Change(t.Context(), r.AgentID, r.ID, func(r *secret.Record) ([]outbox.Message, error) {
		r.Previous, r.PreviousValidUntil, r.Current = r.Current, &until, inVault(12)
		return nil, nil
	}))
	stored := f.stored(t, r.AgentID, r.ID)
	require.Equal(t, 12, stored.Current.Version)
	require.Equal(t, old, stored.Previous)

	_, err := f.db.Exec(t.Context(), `UPDATE credentials.credentials SET secret_hash = 'vault:x' WHERE credential_id = $1`, r.ID)
	require.NoError(t, err)
	_, err = f.Candidates(t.Context(), r.AgentID, stored.Current.Fingerprint)
	require.Error(t, err)
}

// The release before reads the column as a hash of bcrypt's.
func TestAReleaseThatKnowsNoVaultDoesNotCallItsSecretsWrong(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r := record(uuid.New(), start)
	r.Current = inVault(1)
	f.insert(t, r)
	var hash []byte
	require.NoError(t, f.db.QueryRow(t.Context(), `SELECT secret_hash FROM credentials.credentials WHERE credential_id = $1`, r.ID).Scan(&hash))
	_, err := secret.NewBcrypt().Matches(t.Context(), hash, secret.Generate())
	require.Error(t, err)
}

func TestDeletionsAreTakenByOneReplicaWhenTheyAreDueAndUntilTheyAreDone(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r := record(uuid.New(), start)
	f.insert(t, r)
	at := secret.Place{AgentID: r.AgentID, CredentialID: r.ID}
	now := time.Now().UTC().Truncate(time.Microsecond)
	past := now.Add(-time.Hour)
	f.discard(t, r, secret.Deletion{Place: at, DueAt: now.Add(time.Hour)}, secret.Deletion{Place: at, Version: 2, DueAt: past})
	count := func() int {
		n, err := f.CountDeletions(t.Context())
		require.NoError(t, err)
		return n
	}
	take := func() []secret.Deletion {
		due, err := f.DueDeletions(t.Context(), time.Hour, 10)
		require.NoError(t, err)
		return due
	}
	first := take()
	require.Len(t, first, 1)
	require.Equal(t, secret.Deletion{ID: first[0].ID, Place: at, Version: 2, DueAt: past}, first[0])
	require.Empty(t, take(), "another replica is at it")
	require.Equal(t, 1, count())
	_, err := f.db.Exec(t.Context(), `UPDATE credentials.vault_deletions SET claimed_until = claimed_until - interval '1 hour'`)
	require.NoError(t, err)
	require.Equal(t, first, take(), "that replica was killed")
	require.NoError(t, f.Deleted(t.Context(), first[0].ID))
	require.Zero(t, count())

	require.NoError(t, f.Deleted(t.Context(), first[0].ID), "twice does no harm")
	require.Empty(t, take(), "the other one is not due")
}

// destroyed is a Vault that remembers which versions it was told to destroy.
type destroyed struct {
	secret.Vault

	versions []int
}

func (d *destroyed) Destroy(_ context.Context, _ secret.Place, version int) error {
	d.versions = append(d.versions, version)
	return nil
}

func TestAReplicaWhoseClockIsAheadDeletesNothingBeforeItsTime(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r := record(uuid.New(), start)
	f.insert(t, r)
	at := secret.Place{AgentID: r.AgentID, CredentialID: r.ID}
	now := time.Now()
	f.discard(t, r, secret.Deletion{Place: at, Version: 1, DueAt: now.Add(-time.Hour)}, secret.Deletion{Place: at, Version: 2, DueAt: now.Add(time.Hour)})
	vault := &destroyed{}
	replica := secret.NewService(secret.Options{Store: f.Store, Vault: vault, Clock: func() time.Time { return now.Add(24 * time.Hour) }})
	overdue, err := replica.OverdueDeletions(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, overdue)
	_, err = replica.DeleteUnwanted(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int{1}, vault.versions)
}

func TestADeletionIsStoredWithItsChangeOrNotAtAll(t *testing.T) {
	t.Parallel()
	f := setup(t)
	agent := uuid.New()
	for range 3 {
		f.insert(t, record(agent, start))
	}
	decide := func(fail error) func(*secret.Record) ([]outbox.Message, error) {
		return func(r *secret.Record) ([]outbox.Message, error) {
			r.Unwanted = []secret.Deletion{{Place: secret.Place{AgentID: r.AgentID, CredentialID: r.ID}, DueAt: start}}
			return nil, fail
		}
	}
	require.Error(t, f.Decommission(t.Context(), agent, start, decide(secret.NotFound())))
	n, err := f.CountDeletions(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
	require.NoError(t, f.Decommission(t.Context(), agent, start, decide(nil)))
	n, err = f.CountDeletions(t.Context())
	require.NoError(t, err)
	require.Equal(t, 3, n)
}
