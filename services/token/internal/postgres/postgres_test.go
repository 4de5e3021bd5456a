package postgres_test

import (
	"context"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
	"github.com/sentryagent/agentidp/services/token/internal/keys"
	"github.com/sentryagent/agentidp/services/token/internal/postgres"
	"github.com/sentryagent/agentidp/services/token/internal/quota"
)

var (
	noon     = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	november = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
)

func newID() uuid.UUID { return uuid.Must(uuid.NewV7()) }

func count(t *testing.T, db *pgdb.DB, table string) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRow(t.Context(), "SELECT count(*) FROM token."+table).Scan(&n))
	return n
}

func requireUnavailable(t *testing.T, err error) {
	t.Helper()
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
}

// stored are all keys by id.
func stored(t *testing.T, store *postgres.Keys) map[string]keys.Record {
	t.Helper()
	records, err := store.Keys(t.Context())
	require.NoError(t, err)
	byID := map[string]keys.Record{}
	for _, record := range records {
		byID[record.ID] = record
	}
	return byID
}

func TestKeysAreKeptThroughTheirStates(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "token")
	store := postgres.NewKeys(db, nil)
	first := keys.Record{
		ID: "first", Algorithm: keys.RS256, State: keys.Active, Sealed: []byte{0, 1, 2},
		TokenTTL: time.Hour, CreatedAt: noon, ActivatedAt: &noon,
	}
	next := keys.Record{ID: "next", Algorithm: keys.EdDSA, State: keys.Next, Sealed: []byte{3}, TokenTTL: time.Minute, CreatedAt: noon}
	for _, record := range []keys.Record{first, next} {
		require.NoError(t, store.Change(t.Context(), func([]keys.Record, time.Time) keys.Change { return keys.Change{Insert: &record} }))
	}
	require.Len(t, stored(t, store), 2)

	require.NoError(t, store.Change(t.Context(), func(current []keys.Record, _ time.Time) keys.Change {
		require.Len(t, current, 2)
		return keys.Change{
			RaiseTTL: []string{"next", "first"}, TTL: 2 * time.Hour, Retire: "first", Activate: "next",
			At: noon.Add(time.Minute), GoneAt: noon.Add(time.Hour),
		}
	}))
	byID := stored(t, store)
	require.Equal(t, keys.Retired, byID["first"].State)
	require.True(t, byID["first"].GoneAt.Equal(noon.Add(time.Hour)))
	require.Equal(t, keys.Active, byID["next"].State)
	require.Equal(t, 2*time.Hour, byID["next"].TokenTTL)
	require.Equal(t, []byte{0, 1, 2}, byID["first"].Sealed)

	require.NoError(t, store.Change(t.Context(), func([]keys.Record, time.Time) keys.Change { return keys.Change{} }))
	gone := noon.Add(2 * time.Hour)
	require.NoError(t, store.Change(t.Context(), func([]keys.Record, time.Time) keys.Change {
		return keys.Change{Bury: []string{"first", "unknown"}, At: gone}
	}))
	require.Equal(t, 1, count(t, db, "signing_keys"), "the private half is deleted")
	buried := stored(t, store)["first"]
	require.Equal(t, keys.Gone, buried.State)
	require.Empty(t, buried.Sealed)
	require.True(t, buried.RetiredAt.Equal(noon.Add(time.Minute)))
	require.True(t, buried.GoneAt.Equal(gone))

	second := first
	second.ID = "second"
	err := store.Change(t.Context(), func([]keys.Record, time.Time) keys.Change { return keys.Change{Insert: &second} })
	require.Equal(t, "signing_keys_one_active", pgdb.Constraint(err), "two keys never sign at once")

	// Taken out while it signs, and replaced, in one step.
	require.NoError(t, store.Change(t.Context(), func([]keys.Record, time.Time) keys.Change {
		return keys.Change{Bury: []string{"next"}, Insert: &second, At: gone}
	}))
	byID = stored(t, store)
	require.Equal(t, keys.Active, byID["second"].State)
	require.True(t, byID["next"].RetiredAt.Equal(gone), "it signed until it was taken out")

	waiting := next
	waiting.ID = "waiting"
	require.NoError(t, store.Change(t.Context(), func([]keys.Record, time.Time) keys.Change { return keys.Change{Insert: &waiting} }))
	require.NoError(t, store.Change(t.Context(), func([]keys.Record, time.Time) keys.Change { return keys.Change{Withdraw: []string{"waiting"}} }))
	require.NotContains(t, stored(t, store), "waiting", "a key that never signed may come again")
}

func TestKeysChangeByATimeThatIsReadUnderTheLock(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "token")
	store := postgres.NewKeys(db, nil)
	held, proceed := make(chan struct{}), make(chan struct{})
	var group sync.WaitGroup
	change := func(decide func(now time.Time)) {
		group.Go(func() {
			err := store.Change(t.Context(), func(_ []keys.Record, now time.Time) keys.Change {
				decide(now)
				return keys.Change{}
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	change(func(time.Time) {
		close(held)
		<-proceed
	})
	<-held
	var second, between time.Time
	change(func(now time.Time) { second = now })
	testkit.AwaitLock(t, db)
	err := db.QueryRow(t.Context(), "SELECT clock_timestamp()").Scan(&between)
	close(proceed)
	group.Wait()
	require.NoError(t, err)
	require.True(t, second.After(between), "%s is from before it was its turn", second)
}

func TestKeysThatTheOperationsGuideBuriesAreKnownToBeGone(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("../../../../docs/operations.md")
	require.NoError(t, err)
	_, statements, found := strings.Cut(string(guide), "BEGIN;")
	require.True(t, found)
	statements, _, _ = strings.Cut(statements, "COMMIT;")

	db := testkit.DB(t, "token")
	store := postgres.NewKeys(db, nil)
	earlier := noon.Add(-time.Hour)
	for _, record := range []keys.Record{
		{ID: "retired", Algorithm: keys.RS256, State: keys.Active, Sealed: []byte{1}, TokenTTL: time.Hour, CreatedAt: earlier, ActivatedAt: &earlier},
		{ID: "active", Algorithm: keys.ES256, State: keys.Next, Sealed: []byte{2}, TokenTTL: time.Hour, CreatedAt: noon},
	} {
		require.NoError(t, store.Change(t.Context(), func([]keys.Record, time.Time) keys.Change { return keys.Change{Insert: &record} }))
	}
	require.NoError(t, store.Change(t.Context(), func([]keys.Record, time.Time) keys.Change {
		return keys.Change{Retire: "retired", Activate: "active", At: noon, GoneAt: noon.Add(time.Hour)}
	}))
	waiting := keys.Record{ID: "next", Algorithm: keys.EdDSA, State: keys.Next, Sealed: []byte{3}, TokenTTL: time.Hour, CreatedAt: noon}
	require.NoError(t, store.Change(t.Context(), func([]keys.Record, time.Time) keys.Change { return keys.Change{Insert: &waiting} }))

	for _, statement := range strings.Split(strings.TrimSuffix(strings.TrimSpace(statements), ";"), ";") {
		_, err = db.Exec(t.Context(), statement)
		require.NoError(t, err, statement)
	}
	require.Zero(t, count(t, db, "signing_keys"))
	byID := stored(t, store)
	require.Len(t, byID, 3)
	for id, record := range byID {
		require.Equal(t, keys.Gone, record.State, id)
		require.Empty(t, record.Sealed, id)
	}
	require.True(t, byID["retired"].RetiredAt.Equal(noon))
}

func TestKeysChangeByTheClockOfTheDatabase(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "token")
	clock := func() (now time.Time) {
		require.NoError(t, db.QueryRow(t.Context(), `SELECT clock_timestamp()`).Scan(&now))
		return now
	}
	change := func(store *postgres.Keys) (at time.Time) {
		require.NoError(t, store.Change(t.Context(), func(_ []keys.Record, now time.Time) keys.Change {
			at = now
			return keys.Change{}
		}))
		return at
	}
	before, at, after := clock(), change(postgres.NewKeys(db, nil)), clock()
	require.WithinRange(t, at, before, after)
	require.Equal(t, noon, change(postgres.NewKeys(db, func() time.Time { return noon })), "or by that of a test")
}

func TestOneReplicaChangesKeysAtATime(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "token")
	store := postgres.NewKeys(db, nil)
	var made atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			require.NoError(t, store.Change(t.Context(), func(current []keys.Record, _ time.Time) keys.Change {
				if len(current) > 0 {
					return keys.Change{}
				}
				made.Add(1)
				return keys.Change{Insert: &keys.Record{
					ID: uuid.NewString(), Algorithm: keys.ES256, State: keys.Active, Sealed: []byte{1},
					TokenTTL: time.Hour, CreatedAt: noon, ActivatedAt: &noon,
				}}
			}))
		})
	}
	group.Wait()
	require.EqualValues(t, 1, made.Load())
}

func revocationOf(agentID uuid.UUID) (issue.Revocation, auditevent.Event) {
	id := newID()
	event := auditevent.New(newID(), noon, "token", auditevent.TokenRevoked, &agentID, auditevent.Origin{}, nil)
	return issue.Revocation{TokenID: id, AgentID: agentID, ExpiresAt: noon.Add(time.Hour)}, event
}

func TestARevocationAndItsEventAreStoredTogetherOnce(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "token")
	store := postgres.NewRevocations(db, outbox.New("token"))
	agent := newID()
	revoked, event := revocationOf(agent)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			again := event
			again.EventID = newID()
			require.NoError(t, store.Revoke(t.Context(), revoked, again))
		})
	}
	group.Wait()
	require.Equal(t, 1, count(t, db, "revocations"))
	require.Equal(t, 1, count(t, db, "outbox"))

	for id, want := range map[uuid.UUID]bool{revoked.TokenID: true, newID(): false} {
		is, cutoff, err := store.Kept(t.Context(), id, agent)
		require.NoError(t, err)
		require.Equal(t, want, is)
		require.Zero(t, cutoff)
	}

	event.Metadata = map[string]any{"bad": make(chan int)}
	require.Error(t, store.Revoke(t.Context(), revoked, event))
}

func TestTheNewestCutoffHolds(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "token")
	store := postgres.NewRevocations(db, outbox.New("token"))
	agent := newID()
	kept := func() revocation.Cutoff {
		revoked, cutoff, err := store.Kept(t.Context(), newID(), agent)
		require.NoError(t, err)
		require.False(t, revoked)
		cutoff.ValidAfter = cutoff.ValidAfter.UTC()
		return cutoff
	}
	record := func(cutoff revocation.Cutoff) {
		require.NoError(t, store.RecordCutoff(t.Context(), cutoff, noon))
	}
	suspended := revocation.Cutoff{AgentID: agent, Revision: 2, Blocked: true, ValidAfter: noon.Add(-time.Hour)}
	reactivated := revocation.Cutoff{AgentID: agent, Revision: 3, ValidAfter: noon}
	require.Zero(t, kept())
	record(suspended)
	require.Equal(t, suspended, kept())
	record(reactivated)
	require.Equal(t, reactivated, kept())
	record(suspended)
	require.Equal(t, reactivated, kept(), "an older message that arrives late changes nothing")
}

func TestRecentRevocationsAreThoseOfTheDatabasesClock(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "token")
	store := postgres.NewRevocations(db, outbox.New("token"))
	_, err := db.Exec(t.Context(), `INSERT INTO token.revocations (jti, agent_id, expires_at, revoked_at)
		VALUES ($1, $1, now(), now() - interval '2 minutes')`, newID())
	require.NoError(t, err)
	revoked, event := revocationOf(newID())
	require.NoError(t, store.Revoke(t.Context(), revoked, event))
	recent, err := store.RevokedWithin(t.Context(), time.Minute)
	require.NoError(t, err)
	require.Len(t, recent, 1)
	require.Equal(t, revoked.TokenID.String(), recent[0].TokenID)
	require.True(t, revoked.ExpiresAt.Equal(recent[0].ExpiresAt))
	recent, err = store.RevokedWithin(t.Context(), 3*time.Minute)
	require.NoError(t, err)
	require.Len(t, recent, 2)
}

func TestRevocationsAreReadInPagesAndPurged(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "token")
	store := postgres.NewRevocations(db, outbox.New("token"))
	for range 5 {
		revoked, event := revocationOf(newID())
		require.NoError(t, store.Revoke(t.Context(), revoked, event))
	}
	seen := map[string]bool{}
	for after := uuid.Nil; ; {
		page, err := store.RevocationsAfter(t.Context(), noon, after, 2)
		require.NoError(t, err)
		for _, revoked := range page {
			require.False(t, seen[revoked.TokenID])
			seen[revoked.TokenID] = true
			after = uuid.MustParse(revoked.TokenID)
		}
		if len(page) < 2 {
			break
		}
	}
	require.Len(t, seen, 5)
	for _, purge := range []struct {
		after   time.Duration
		deleted int64
	}{{2 * time.Hour, 0}, {2*time.Hour + 1000, 3}, {2*time.Hour + 1000, 2}, {2*time.Hour + 1000, 0}} {
		deleted, err := store.Purge(t.Context(), noon.Add(purge.after), 3) // their tokens expired at one o'clock
		require.NoError(t, err)
		require.Equal(t, purge.deleted, deleted)
	}
	require.Zero(t, count(t, db, "revocations"))
}

func TestTheQuotaIsCountedExactly(t *testing.T) {
	t.Parallel()
	store := postgres.NewQuota(testkit.DB(t, "token"))
	agent := newID()
	var taken atomic.Int64
	var group sync.WaitGroup
	for range 30 {
		group.Go(func() {
			ok, err := store.Take(t.Context(), quota.Count{AgentID: agent, Month: november}, 10)
			require.NoError(t, err)
			if ok {
				taken.Add(1)
			}
		})
	}
	group.Wait()
	require.EqualValues(t, 10, taken.Load())
	used, err := store.Used(t.Context(), agent, november)
	require.NoError(t, err)
	require.EqualValues(t, 10, used)
	used, err = store.Used(t.Context(), agent, november.AddDate(0, 1, 0))
	require.NoError(t, err)
	require.Zero(t, used, "another month")

	require.NoError(t, store.GiveBack(t.Context(), agent, november))
	ok, err := store.Take(t.Context(), quota.Count{AgentID: agent, Month: november, Used: 12}, 20)
	require.NoError(t, err)
	require.True(t, ok)
	used, err = store.Used(t.Context(), agent, november)
	require.NoError(t, err)
	require.EqualValues(t, 13, used, "from what was seen on")
	for _, agent := range []uuid.UUID{agent, newID()} { // of one count that is lower, and of none
		ok, err = store.Take(t.Context(), quota.Count{AgentID: agent, Month: november, Used: 20}, 20)
		require.NoError(t, err)
		require.False(t, ok)
	}
}

func TestCountsAreOnlyRaised(t *testing.T) {
	t.Parallel()
	store := postgres.NewQuota(testkit.DB(t, "token"))
	one, other := newID(), newID()
	first, err := store.Open(t.Context(), one, november)
	require.NoError(t, err)
	require.True(t, first)
	first, err = store.Open(t.Context(), one, november)
	require.NoError(t, err)
	require.False(t, first)
	_, err = store.Raise(t.Context(), []quota.Count{{AgentID: one, Month: november, Used: 5}})
	require.NoError(t, err)
	counts, err := store.Raise(t.Context(), []quota.Count{
		{AgentID: one, Month: november, Used: 3}, {AgentID: other, Month: november, Used: 4},
	})
	require.NoError(t, err)
	require.ElementsMatch(t, []quota.Count{
		{AgentID: one, Month: november, Used: 5}, {AgentID: other, Month: november, Used: 4},
	}, counts)
}

func TestTheOutboxTakesABatch(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "token")
	store := postgres.NewOutbox(db, outbox.New("token"))
	require.NoError(t, store.Append(t.Context(), []outbox.Message{
		{ID: newID(), Subject: "audit.token.token.issued", Payload: []byte("{}")},
		{ID: newID(), Subject: "audit.token.token.issued", Payload: []byte("{}")},
	}))
	require.Equal(t, 2, count(t, db, "outbox"))
}

func TestTheServiceMayDoNoMoreThanItNeeds(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "token")
	for _, statement := range []string{
		"UPDATE token.signing_keys SET sealed_key = ''",
		"UPDATE token.revocations SET expires_at = now()",
		"DELETE FROM token.agent_cutoffs",
		"DELETE FROM token.quota_usage",
		"UPDATE token.assertion_ids SET expires_at = now()",
		"TRUNCATE token.revocations",
		"CREATE TABLE token.mine (id int)",
		"DROP TABLE token.outbox",
	} {
		_, err := db.Exec(t.Context(), statement)
		require.ErrorContains(t, err, "42501", statement)
	}
}

func TestADatabaseThatIsAwayIsUnavailable(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "token")
	db.Close()
	box := outbox.New("token")
	ctx, id := context.Background(), newID()
	counts, revocations, ring := postgres.NewQuota(db), postgres.NewRevocations(db, box), postgres.NewKeys(db, nil)
	revoked, event := revocationOf(id)
	used := postgres.NewAssertionIDs(db)
	for name, call := range map[string]func() error{
		"quota open":    func() error { _, err := counts.Open(ctx, id, november); return err },
		"quota used":    func() error { _, err := counts.Used(ctx, id, november); return err },
		"quota raise":   func() error { _, err := counts.Raise(ctx, []quota.Count{{AgentID: id, Month: november}}); return err },
		"quota take":    func() error { _, err := counts.Take(ctx, quota.Count{AgentID: id, Month: november}, 1); return err },
		"give back":     func() error { return counts.GiveBack(ctx, id, november) },
		"kept":          func() error { _, _, err := revocations.Kept(ctx, id, id); return err },
		"revoke":        func() error { return revocations.Revoke(ctx, revoked, event) },
		"revocations":   func() error { _, err := revocations.RevocationsAfter(ctx, noon, id, 1); return err },
		"recent":        func() error { _, err := revocations.RevokedWithin(ctx, time.Minute); return err },
		"record cutoff": func() error { return revocations.RecordCutoff(ctx, revocation.Cutoff{AgentID: id}, noon) },
		"purge":         func() error { _, err := revocations.Purge(ctx, noon, 1); return err },
		"use":           func() error { _, err := used.Use(ctx, id, "jti", noon); return err },
		"purge used":    func() error { _, err := used.Purge(ctx, noon, 1); return err },
		"keys":          func() error { _, err := ring.Keys(ctx); return err },
		"change keys": func() error {
			return ring.Change(ctx, func([]keys.Record, time.Time) keys.Change { return keys.Change{} })
		},
		"outbox": func() error { return postgres.NewOutbox(db, box).Append(ctx, []outbox.Message{{ID: id}}) },
	} {
		t.Run(name, func(t *testing.T) { requireUnavailable(t, call()) })
	}
}
