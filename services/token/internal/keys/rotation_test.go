package keys

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

const rotation = 24 * time.Hour

func rotating(cfg *RingConfig) { cfg.Rotation = rotation }

func TestAKeyIsReplacedWhenItHasSignedForItsTime(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	a, b := ring(t, store, clock, ES256, rotating), ring(t, store, clock, ES256, rotating)
	pass(t, a, b)
	first := signs(t, a)

	clock.Advance(rotation - 10*time.Minute - time.Second)
	pass(t, a, b)
	require.Equal(t, map[State]int{Active: 1}, store.states(), "not yet")

	clock.Advance(time.Second)
	pass(t, a, b)
	require.Equal(t, map[State]int{Active: 1, Next: 1}, store.states(), "its successor is published in time")
	pass(t, a)
	require.Len(t, kidsOf(t, a), 2)
	require.Equal(t, kidsOf(t, a), kidsOf(t, b))
	require.Equal(t, first, signs(t, a))

	clock.Advance(10 * time.Minute)
	pass(t, b, a)
	require.NotEqual(t, first, signs(t, a), "a day after it began")
	require.Equal(t, signs(t, a), signs(t, b))
	require.Equal(t, first, store.one(t, Retired).ID)
	require.Equal(t, clock.Now().Add(time.Hour+retirementMargin), *store.one(t, Retired).GoneAt)
}

func TestNoKeyIsReplacedWithoutARotation(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	r := ring(t, store, clock, ES256)
	pass(t, r)
	clock.Advance(10 * 365 * 24 * time.Hour)
	pass(t, r, r)
	require.Equal(t, map[State]int{Active: 1}, store.states())
}

func TestReplicasThatRotateTogetherMakeOneKey(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	rings := make([]*Ring, 8)
	for i := range rings {
		rings[i] = ring(t, store, clock, ES256, rotating)
		pass(t, rings[i])
	}
	for range 3 {
		for _, step := range []time.Duration{rotation - 10*time.Minute, 10 * time.Minute} {
			clock.Advance(step)
			var group sync.WaitGroup
			for _, r := range rings {
				group.Go(func() { _ = r.Pass(context.Background()) })
			}
			group.Wait()
		}
		require.Equal(t, 1, store.states()[Active])
		require.Zero(t, store.states()[Next])
		require.Equal(t, 1, store.states()[Retired])
	}
	require.Equal(t, map[State]int{Active: 1, Retired: 1, Gone: 2}, store.states(), "three rotations, three new keys")
}

func TestALateReplicaRaisesTheLifetimeOfAKeyThatSigns(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	long := ring(t, store, clock, ES256, func(cfg *RingConfig) { cfg.TokenTTL = 24 * time.Hour })
	pass(t, long)
	custodian := NewCustodian(CustodianConfig{Store: store, Sealer: testSealer(t, 'k'), Propagation: 10 * time.Minute})
	_, err := custodian.Rotate(t.Context())
	require.NoError(t, err)
	store.records[1].TokenTTL = time.Minute // as one with other settings would have made it
	pass(t, long)
	require.Equal(t, 24*time.Hour, store.one(t, Next).TokenTTL)
}

func TestTheJWKSMayBeCachedUntilAnUnknownKeyMightSign(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		propagation, away, want time.Duration
	}{
		"five minutes":                            {10 * time.Minute, 0, 5 * time.Minute},
		"the store was away for a while":          {10 * time.Minute, 4 * time.Minute, 5 * time.Minute},
		"the store has been away for longer":      {10 * time.Minute, 7 * time.Minute, 3*time.Minute - cacheMargin},
		"the store has been away for too long":    {10 * time.Minute, time.Hour, 0},
		"keys are published for a shorter time":   {20 * time.Second, 3 * time.Second, 17*time.Second - cacheMargin},
		"keys sign at once":                       {0, 0, 0},
		"parts of a second are left out":          {20 * time.Second, 500 * time.Millisecond, 17 * time.Second},
		"keys are published for five minutes too": {5 * time.Minute, 0, 5*time.Minute - cacheMargin},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, clock := newMemory()
			r := ring(t, store, clock, ES256, func(cfg *RingConfig) { cfg.Propagation = test.propagation })
			pass(t, r)
			store.fail(errors.New("away"))
			clock.Advance(test.away)
			require.Error(t, r.Pass(t.Context()))
			document, err := r.JWKS()
			require.NoError(t, err)
			require.Equal(t, test.want, document.MaxAge)
		})
	}
}

func TestAReplicaThatCannotOpenTheKeysAddsNone(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	pass(t, ring(t, store, clock, ES256))
	stranger := ring(t, store, clock, EdDSA)
	stranger.sealer = testSealer(t, 'x')
	require.ErrorContains(t, stranger.Pass(t.Context()), "KEY_ENCRYPTION_KEY")
	require.Equal(t, map[State]int{Active: 1}, store.states())
}

func TestAWaitingKeySignsWhereThereIsNoOther(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	pass(t, ring(t, store, clock, ES256), ring(t, store, clock, EdDSA))
	waiting := store.one(t, Next).ID
	store.records = store.records[1:] // somebody deleted the row
	r := ring(t, store, clock, EdDSA)
	pass(t, r)
	require.Equal(t, waiting, signs(t, r))
}

func TestTheMetricsTellOfTheKeys(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	r := ring(t, store, clock, ES256, rotating)
	metrics := NewMetrics(r)
	require.Zero(t, testutil.CollectAndCount(metrics), "nothing is known yet")
	show := func(want string) {
		t.Helper()
		require.NoError(t, testutil.CollectAndCompare(metrics, strings.NewReader(want),
			"agentidp_signing_keys", "agentidp_signing_key_age_seconds", "agentidp_signing_key_rotation_seconds"))
	}
	const help = `# HELP agentidp_signing_key_age_seconds Time since the active signing key began to sign.
# TYPE agentidp_signing_key_age_seconds gauge
# HELP agentidp_signing_key_rotation_seconds Time until the next key signs: negative when it should already; absent when no rotation is due.
# TYPE agentidp_signing_key_rotation_seconds gauge
# HELP agentidp_signing_keys Signing keys by state: next (published, does not sign yet), active, retired (published for its last tokens).
# TYPE agentidp_signing_keys gauge
`
	pass(t, r)
	clock.Advance(time.Hour)
	show(help + `agentidp_signing_key_age_seconds 3600
agentidp_signing_key_rotation_seconds 82800
agentidp_signing_keys{state="active"} 1
agentidp_signing_keys{state="next"} 0
agentidp_signing_keys{state="retired"} 0
`)
	clock.Advance(rotation - time.Hour - 10*time.Minute)
	pass(t, r)
	clock.Advance(11 * time.Minute)
	show(help + `agentidp_signing_key_age_seconds 86460
agentidp_signing_key_rotation_seconds -60
agentidp_signing_keys{state="active"} 1
agentidp_signing_keys{state="next"} 1
agentidp_signing_keys{state="retired"} 0
`)
	off := ring(t, store, clock, ES256)
	pass(t, off)
	require.Equal(t, 4, testutil.CollectAndCount(NewMetrics(off)), "no rotation is due, so none is told")
}

func custodianOf(t *testing.T, store Store) *Custodian {
	t.Helper()
	return NewCustodian(CustodianConfig{
		Store: store, Sealer: testSealer(t, 'k'), Propagation: 10 * time.Minute,
	})
}

func TestACommandedRotationGoesThroughTheSameStates(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	custodian := custodianOf(t, store)
	_, err := custodian.Rotate(t.Context())
	require.ErrorIs(t, err, ErrNoKeys)

	r := ring(t, store, clock, EdDSA)
	pass(t, r)
	first := signs(t, r)
	clock.Advance(time.Hour)
	key, err := custodian.Rotate(t.Context())
	require.NoError(t, err)
	from := clock.Now().Add(10 * time.Minute)
	require.Equal(t, Key{ID: key.ID, Algorithm: EdDSA, State: Next, CreatedAt: clock.Now(), SignsFrom: &from}, key)
	require.Equal(t, time.Hour, store.one(t, Next).TokenTTL)

	_, err = custodian.Rotate(t.Context())
	require.ErrorIs(t, err, ErrWaiting)
	require.ErrorContains(t, err, key.ID)
	require.Equal(t, map[State]int{Active: 1, Next: 1}, store.states(), "nothing was changed")

	pass(t, r)
	require.ElementsMatch(t, []string{first, key.ID}, kidsOf(t, r))
	clock.Advance(10 * time.Minute)
	pass(t, r)
	require.Equal(t, key.ID, signs(t, r))
	gone := clock.Now().Add(time.Hour + retirementMargin)
	list, err := custodian.List(t.Context(), false)
	require.NoError(t, err)
	now, began := clock.Now(), start
	require.Equal(t, []Key{
		{ID: key.ID, Algorithm: EdDSA, State: Active, CreatedAt: start.Add(time.Hour), SignsFrom: &now},
		{ID: first, Algorithm: EdDSA, State: Retired, CreatedAt: start, SignsFrom: &began, SignedUntil: &now, GoneAt: &gone},
	}, list)
}

func TestARetiredKeyIsGoneAtOnceAndOneSignsAllTheSame(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		state State // of the key that is taken out
		wait  bool  // whether a next key waits
		left  map[State]int
	}{
		"the active key, and the next one signs": {Active, true, map[State]int{Active: 1, Gone: 1}},
		"the active key, and a new one signs":    {Active, false, map[State]int{Active: 1, Gone: 1}},
		"the next key":                           {Next, true, map[State]int{Active: 1, Gone: 1}},
		"a retired key":                          {Retired, false, map[State]int{Active: 1, Gone: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, clock := newMemory()
			custodian := custodianOf(t, store)
			r := ring(t, store, clock, ES256)
			pass(t, r)
			if test.wait || test.state == Retired {
				_, err := custodian.Rotate(t.Context())
				require.NoError(t, err)
			}
			if test.state == Retired {
				clock.Advance(10 * time.Minute)
			}
			pass(t, r)
			victim := store.one(t, test.state).ID
			_, err := r.Key(t.Context(), victim)
			require.NoError(t, err)

			key, err := custodian.Retire(t.Context(), victim)
			require.NoError(t, err)
			require.Equal(t, Active, key.State)
			require.Equal(t, test.left, store.states())
			require.Equal(t, key.ID, store.one(t, Active).ID)
			require.Equal(t, ES256, store.one(t, Active).Algorithm)
			require.Equal(t, time.Hour, store.one(t, Active).TokenTTL)
			require.Empty(t, store.one(t, Gone).Sealed)

			clock.Advance(rereadEvery)
			pass(t, r)
			require.Equal(t, key.ID, signs(t, r))
			require.Equal(t, []string{key.ID}, kidsOf(t, r))
			_, err = r.Key(t.Context(), victim)
			require.ErrorIs(t, err, authn.ErrUnknownKey)

			_, err = custodian.Retire(t.Context(), victim)
			require.ErrorIs(t, err, ErrGone)
			list, err := custodian.List(t.Context(), true)
			require.NoError(t, err)
			require.Len(t, list, 2)
			list, err = custodian.List(t.Context(), false)
			require.NoError(t, err)
			require.Len(t, list, 1)
		})
	}
}

func TestWhatCannotBeRetiredIsSaid(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	custodian := custodianOf(t, store)
	pass(t, ring(t, store, clock, ES256))
	_, err := custodian.Retire(t.Context(), "unknown")
	require.ErrorIs(t, err, ErrUnknown)

	wrong := NewCustodian(CustodianConfig{Store: store, Sealer: testSealer(t, 'x')})
	_, err = wrong.Retire(t.Context(), store.one(t, Active).ID)
	require.ErrorContains(t, err, "KEY_ENCRYPTION_KEY")
	_, err = wrong.Rotate(t.Context())
	require.ErrorContains(t, err, "KEY_ENCRYPTION_KEY")
	require.Equal(t, map[State]int{Active: 1}, store.states(), "no key is made that no replica could open")

	store.fail(apperr.Unavailable(errors.New("away")))
	_, err = custodian.Retire(t.Context(), "unknown")
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	_, err = custodian.List(t.Context(), true)
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	_, err = custodian.Rotate(t.Context())
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
}

func TestAKeyThatBeganToSignMeanwhileIsNotRetiredWithoutASuccessor(t *testing.T) {
	t.Parallel()
	at := start
	records := []Record{{ID: "active", State: Active, ActivatedAt: &at}}
	change, _, err := retire(records, "active", Record{}, start)
	require.ErrorIs(t, err, errMoved)
	require.True(t, change.empty())
}

// cutOff is the way of one replica to the store that it shares with others.
type cutOff struct {
	Store

	err error
}

func (c *cutOff) Keys(ctx context.Context) ([]Record, error) {
	if c.err != nil {
		return nil, c.err
	}
	return c.Store.Keys(ctx)
}

func TestAReplicaThatIsCutOffTakesNoKeyFromTheOtherServices(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	way := &cutOff{Store: store}
	whole, cut := ring(t, store, clock, ES256), ring(t, way, clock, ES256)
	pass(t, whole, cut)
	old := signs(t, whole)

	asked := cut // the replica that the balancer happens to choose
	service := authn.NewRemoteKeys(func(ctx context.Context) ([]byte, error) {
		document, err := asked.CurrentJWKS(ctx)
		return document.Body, err
	}, clock.Now, slog.New(slog.DiscardHandler))
	_, err := service.Key(t.Context(), old)
	require.NoError(t, err)

	way.err = errors.New("no route to the database")
	_, err = custodianOf(t, store).Retire(t.Context(), old)
	require.NoError(t, err)
	clock.Advance(10 * time.Second)
	pass(t, whole)
	fresh := signs(t, whole)
	_, err = service.Key(t.Context(), fresh)
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err), "whether there is such a key is not known here")

	clock.Advance(10 * time.Second)
	asked = whole
	_, err = service.Key(t.Context(), fresh)
	require.NoError(t, err)

	clock.Advance(10 * time.Second)
	asked = cut
	_, err = service.Key(t.Context(), "garbage")
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	_, err = service.Key(t.Context(), fresh)
	require.NoError(t, err, "the set that was read from the other replica is kept")
	_, err = service.Key(t.Context(), old)
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
}

func TestTheCurrentJWKSIsReadAtMostOnceASecond(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	r := ring(t, store, clock, ES256)
	_, err := r.CurrentJWKS(t.Context())
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err), "there is none yet")
	pass(t, r)
	made, err := custodianOf(t, store).Rotate(t.Context())
	require.NoError(t, err)

	reads := store.reads
	for range 100 {
		_, err := r.CurrentJWKS(t.Context())
		require.NoError(t, err)
	}
	require.Equal(t, reads, store.reads)
	clock.Advance(rereadEvery)
	document, err := r.CurrentJWKS(t.Context())
	require.NoError(t, err)
	require.Contains(t, string(document.Body), made.ID)
	require.Equal(t, reads+1, store.reads)
}

func TestAReplicaThatIsCutOffSignsNothingThatOutlivesItsKey(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	way := &cutOff{Store: store}
	whole, cut := ring(t, store, clock, ES256, rotating), ring(t, way, clock, ES256, rotating)
	pass(t, whole)
	clock.Advance(rotation - 10*time.Minute)
	pass(t, whole)
	clock.Advance(10*time.Minute - time.Second)
	require.Error(t, cut.Ready())
	pass(t, cut)
	old := signs(t, cut)
	way.err = errors.New("no route to the database")
	clock.Advance(time.Second)
	pass(t, whole)
	require.NotEqual(t, old, signs(t, whole), "retired right after the other one read it")

	clock.Advance(signsUnread - time.Second)
	require.Equal(t, old, signs(t, cut))
	clock.Advance(time.Second)
	_, err := cut.Signer()
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	require.NoError(t, cut.Ready(), "it publishes and verifies as before")

	clock.Advance(time.Hour) // the lifetime of its last token
	pass(t, whole)
	require.Contains(t, kidsOf(t, whole), old)
	clock.Advance(retirementMargin - signsUnread)
	pass(t, whole)
	require.NotContains(t, kidsOf(t, whole), old)

	way.err = nil
	pass(t, cut)
	require.Equal(t, signs(t, whole), signs(t, cut))
}

func TestAKeyIsPublishedBeforeItSignsWhoeverMadeIt(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string]time.Duration{
		"a machine whose clock is slow": -time.Hour,
		"a machine whose clock is fast": time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, clock := newMemory()
			r := ring(t, store, clock, ES256)
			pass(t, r)
			old := signs(t, r)
			stranger := ring(t, store, testkit.NewClock(start.Add(wrong)), EdDSA)
			pass(t, stranger)
			require.Equal(t, start, store.one(t, Next).CreatedAt, "the store's clock counts")
			pass(t, stranger, r)
			require.Equal(t, old, signs(t, r))
			clock.Advance(10*time.Minute - time.Second)
			pass(t, stranger, r)
			require.Equal(t, old, signs(t, r))
			clock.Advance(time.Second)
			pass(t, r)
			require.NotEqual(t, old, signs(t, r))
			pass(t, stranger)
			require.Len(t, kidsOf(t, stranger), 2, "nor does it drop the retired one too early")
		})
	}
}

// overtaken is a store from which the first to read learns what it read after others have.
type overtaken struct {
	Store

	meanwhile func()
}

func (o *overtaken) Keys(ctx context.Context) ([]Record, error) {
	records, err := o.Store.Keys(ctx)
	if meanwhile := o.meanwhile; meanwhile != nil {
		o.meanwhile = nil
		meanwhile()
	}
	return records, err
}

func TestAnOlderViewOfTheKeysNeverReplacesANewerOne(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	pass(t, ring(t, store, clock, ES256))
	slow := &overtaken{Store: store}
	r := ring(t, slow, clock, ES256)
	var made Key
	slow.meanwhile = func() {
		var err error
		made, err = custodianOf(t, store).Rotate(t.Context())
		require.NoError(t, err)
		clock.Advance(time.Second)
		_, err = r.CurrentJWKS(t.Context()) // for a request, while the pass goes on
		require.NoError(t, err)
	}
	pass(t, r)
	require.Contains(t, kidsOf(t, r), made.ID)
}

// readOnly is a store that can be read and not written.
type readOnly struct{ Store }

func (readOnly) Change(context.Context, func([]Record, time.Time) Change) error {
	return errors.New("read-only transaction")
}

func TestNoTokenIsSignedThatItsKeyIsNotKeptFor(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	pass(t, ring(t, store, clock, ES256))
	long := ring(t, readOnly{store}, clock, ES256, func(cfg *RingConfig) { cfg.TokenTTL = 24 * time.Hour })
	require.Error(t, long.Pass(t.Context()))
	_, err := long.Signer()
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	require.Error(t, long.Ready())
	require.Len(t, kidsOf(t, long), 1, "it publishes what there is")

	long.store = store
	pass(t, long)
	require.Equal(t, store.one(t, Active).ID, signs(t, long))
	require.NoError(t, long.Ready())
}

func TestAReplicaSaysThatItTookAKeyBack(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	pass(t, ring(t, store, clock, ES256), ring(t, store, clock, EdDSA))
	waiting := store.one(t, Next).ID
	var log strings.Builder
	old := ring(t, store, clock, ES256, func(cfg *RingConfig) { cfg.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	pass(t, old)
	require.Contains(t, log.String(), waiting)
	require.Contains(t, log.String(), "SIGNING_ALG")
	told := log.Len()
	pass(t, old)
	require.Equal(t, told, log.Len(), "once")
}
