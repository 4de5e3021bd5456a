package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
)

func TestTheLimitIsExactUnderAnyConcurrency(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const limit, asking = 5, 40
	agent := uuid.New()
	full := errors.New("full")
	errs := make([]error, asking)
	var wg sync.WaitGroup
	for i := range asking {
		wg.Go(func() {
			errs[i] = f.Insert(t.Context(), agent, start, func(st secret.Standing) (secret.Record, []outbox.Message, error) {
				if st.Active >= limit {
					return secret.Record{}, nil, full
				}
				return record(agent, start), []outbox.Message{message()}, nil
			})
		})
	}
	wg.Wait()
	stored := 0
	for _, err := range errs {
		if err == nil {
			stored++
			continue
		}
		require.ErrorIs(t, err, full)
	}
	require.Equal(t, limit, stored)
	st, err := f.Standing(t.Context(), agent, start)
	require.NoError(t, err)
	require.Equal(t, limit, st.Active)
	require.Equal(t, limit, f.messages(t))
}

func TestNoActiveCredentialOutlivesADecommission(t *testing.T) {
	t.Parallel()
	f := setup(t)
	gone := errors.New("gone")
	for range 5 {
		agent := uuid.New()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				err := f.Insert(t.Context(), agent, start, func(st secret.Standing) (secret.Record, []outbox.Message, error) {
					if st.Decommissioned {
						return secret.Record{}, nil, gone
					}
					return record(agent, start), nil, nil
				})
				if err != nil && !errors.Is(err, gone) {
					t.Error(err)
				}
			})
		}
		for range 2 { // also told twice
			wg.Go(func() {
				if err := f.Decommission(t.Context(), agent, start, revoke); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		st, err := f.Standing(t.Context(), agent, start)
		require.NoError(t, err)
		require.Equal(t, secret.Standing{Known: true, Decommissioned: true}, st)
	}
}

func TestOfTwoChangesOfOneCredentialTheSecondSeesWhatTheFirstDid(t *testing.T) {
	t.Parallel()
	refused := errors.New("revoked already")
	rotate := func(r *secret.Record) ([]outbox.Message, error) {
		if r.Status == secret.Revoked {
			return nil, refused
		}
		at, until := start.Add(time.Second), start.Add(time.Hour)
		r.Previous, r.PreviousValidUntil, r.Current, r.RotatedAt = r.Current, &until, seal(), &at
		return []outbox.Message{message()}, nil
	}
	for name, tt := range map[string]struct {
		first func(*secret.Record) ([]outbox.Message, error)
		want  error
	}{
		"what was revoked stays revoked":                                {revoke, refused},
		"the secret of the first rotation is the one before the second": {rotate, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			r := record(uuid.New(), start)
			f.insert(t, r)
			var made, seen secret.Record
			entered, goOn := make(chan struct{}), make(chan struct{})
			first, second := make(chan error, 1), make(chan error, 1)
			go func() {
				first <- f.Change(t.Context(), r.AgentID, r.ID, func(r *secret.Record) ([]outbox.Message, error) {
					close(entered)
					<-goOn
					msgs, err := tt.first(r)
					made = *r
					return msgs, err
				})
			}()
			<-entered
			go func() {
				second <- f.Change(t.Context(), r.AgentID, r.ID, func(r *secret.Record) ([]outbox.Message, error) {
					seen = *r
					return rotate(r)
				})
			}()
			testkit.AwaitLock(t, f.db)
			close(goOn)
			require.NoError(t, <-first)
			require.ErrorIs(t, <-second, tt.want)
			require.Equal(t, made, seen)
			require.Equal(t, made.Status, f.stored(t, r.AgentID, r.ID).Status)
		})
	}
}

func TestADecommissionIsRememberedOnceAndTouchesActiveCredentialsOnly(t *testing.T) {
	t.Parallel()
	f := setup(t)
	agent := uuid.New()
	old, live, foreign := record(agent, start), record(agent, start), record(uuid.New(), start)
	for _, r := range []secret.Record{old, live, foreign} {
		f.insert(t, r)
	}
	require.NoError(t, f.Change(t.Context(), agent, old.ID, revoke))
	sent := f.messages(t)

	for range 2 {
		var seen []uuid.UUID
		require.NoError(t, f.Decommission(t.Context(), agent, start.Add(time.Duration(sent)*time.Hour), func(r *secret.Record) ([]outbox.Message, error) {
			seen = append(seen, r.ID)
			return revoke(r)
		}))
		require.True(t, len(seen) == 0 || slices.Equal(seen, []uuid.UUID{live.ID}))
	}
	require.Equal(t, sent+1, f.messages(t))
	require.Equal(t, secret.Active, f.stored(t, foreign.AgentID, foreign.ID).Status)

	var at time.Time
	require.NoError(t, f.db.QueryRow(t.Context(), "SELECT decommissioned_at FROM credentials.agents WHERE agent_id = $1", agent).Scan(&at))
	require.Equal(t, start.Add(time.Duration(sent)*time.Hour), at.UTC())

	unknown := uuid.New()
	require.NoError(t, f.Decommission(t.Context(), unknown, start, revoke))
	st, err := f.Standing(t.Context(), unknown, start)
	require.NoError(t, err)
	require.True(t, st.Decommissioned, "an agent that never had a credential was forgotten")
}

func TestADecommissionThatIsStoppedGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	f := setup(t)
	agent := uuid.New()
	expires := start.Add(time.Second)
	unending, ending := record(agent, start), record(agent, start)
	ending.ExpiresAt = &expires
	f.insert(t, unending)
	f.insert(t, ending)
	const expired = 2500
	_, err := f.db.Exec(t.Context(), `
INSERT INTO credentials.credentials (credential_id, agent_id, created_at, expires_at, secret_hash, secret_fingerprint)
SELECT gen_random_uuid(), $1, $2::timestamptz - n * interval '1 minute', $2, 'hash', 'finger_p' FROM generate_series(1, $3::int) AS n`, agent, start, expired)
	require.NoError(t, err)
	active := func() int {
		var n int
		require.NoError(t, f.db.QueryRow(t.Context(), `SELECT count(*) FROM credentials.credentials WHERE agent_id = $1 AND status = 'active'`, agent).Scan(&n))
		return n
	}

	stopped, seen := errors.New("the time is up"), 0
	require.ErrorIs(t, f.Decommission(t.Context(), agent, start, func(r *secret.Record) ([]outbox.Message, error) {
		if seen++; seen == 1500 {
			return nil, stopped
		}
		return revoke(r)
	}), stopped)
	require.Equal(t, expired-1000, active(), "a portion was stored")
	st, err := f.Standing(t.Context(), agent, start)
	require.NoError(t, err)
	require.Equal(t, secret.Standing{Known: true, Decommissioned: true}, st, "nothing that is good is left for a later portion")

	require.NoError(t, f.Decommission(t.Context(), agent, start, revoke))
	require.Zero(t, active())
}

func TestUsesAndDecommissionsOfTheSameCredentialsDoNotBlockEachOther(t *testing.T) {
	t.Parallel()
	f := setup(t)
	agent := uuid.New()
	var uses []secret.Use
	for range 30 {
		r := record(agent, start)
		f.insert(t, r)
		uses = append(uses, secret.Use{CredentialID: r.ID, UsedAt: start.Add(time.Minute)})
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			mine := slices.Clone(uses)
			for j := range mine {
				mine[j].UsedAt = mine[j].UsedAt.Add(time.Duration(i) * time.Second)
			}
			if i%2 == 0 {
				slices.Reverse(mine)
			}
			if err := f.RecordUses(t.Context(), mine); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Go(func() {
		if err := f.Decommission(t.Context(), agent, start, revoke); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
}

func TestADecommissionLocksCredentialsInTheOrderOfTheirIDs(t *testing.T) {
	t.Parallel()
	for name, expired := range map[string]bool{"those that are good": false, "expired ones": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			agent := uuid.New()
			var stored []secret.Record
			for range 20 {
				stored = append(stored, record(agent, start))
			}
			slices.SortFunc(stored, func(a, b secret.Record) int { return bytes.Compare(b.ID[:], a.ID[:]) })
			for i, r := range stored { // the last id comes first, wherever else they are in an order
				if expires := start.Add(time.Duration(i+1) * time.Second); expired {
					r.ExpiresAt = &expires
				}
				f.insert(t, r)
			}
			last, first := stored[0].ID, stored[len(stored)-1].ID
			other, err := f.db.Begin(t.Context())
			require.NoError(t, err)
			defer func() { _ = other.Rollback(context.WithoutCancel(t.Context())) }()
			const lock = `SELECT credential_id FROM credentials.credentials WHERE credential_id = $1 FOR UPDATE SKIP LOCKED`
			var locked uuid.UUID
			require.NoError(t, other.QueryRow(t.Context(), lock, first).Scan(&locked))
			done := make(chan error, 1)
			go func() { done <- f.Decommission(t.Context(), agent, start.Add(time.Hour), revoke) }()
			testkit.AwaitLock(t, f.db)
			require.NoError(t, other.QueryRow(t.Context(), lock, last).Scan(&locked), "who waits for the first one must hold no other")
			require.NoError(t, other.Rollback(t.Context()))
			require.NoError(t, <-done)
		})
	}
}
