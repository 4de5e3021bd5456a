package hydration

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/lifecycle"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

var (
	noon    = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	errAway = errors.New("away")
)

// world is the store, the registry and the cache, in memory.
type world struct {
	mu          sync.Mutex
	revoked     []revocation.Revoked // by id
	recent      []revocation.Revoked
	lately      time.Duration        // what was last asked for
	cutoffs     []registryapi.Cutoff // by agent
	recorded    []revocation.Cutoff
	begun       int // hydrations
	storeErr    error
	registryErr error
	cache       map[string]bool
	hydrated    bool
	hydrates    int
	cacheErr    error
	failLoads   int    // of so many the cache breaks off
	unanswered  int    // so many statements are sent where nobody answers any more
	meanwhile   func() // where not nil, goes on while the cache loads
}

// answered tells whether a statement is.
func (w *world) answered(ctx context.Context) error {
	w.mu.Lock()
	w.unanswered--
	answered := w.unanswered < 0
	w.mu.Unlock()
	if !answered {
		<-ctx.Done()
	}
	return ctx.Err()
}

func (w *world) RevocationsAfter(_ context.Context, expiring time.Time, after uuid.UUID, limit int) ([]revocation.Revoked, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	from, found := slices.BinarySearchFunc(w.revoked, after.String(), func(r revocation.Revoked, id string) int { return strings.Compare(r.TokenID, id) })
	if found {
		from++
	}
	page := slices.DeleteFunc(slices.Clone(w.revoked[from:]), func(r revocation.Revoked) bool { return !r.ExpiresAt.After(expiring) })
	return page[:min(limit, len(page))], w.storeErr
}

func (w *world) RevokedWithin(ctx context.Context, lately time.Duration) ([]revocation.Revoked, error) {
	if err := w.answered(ctx); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lately = lately
	return slices.Clone(w.recent), w.storeErr
}

func (w *world) Cutoffs(_ context.Context, since time.Time, after uuid.UUID) ([]registryapi.Cutoff, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	from, found := slices.BinarySearchFunc(w.cutoffs, after.String(), func(c registryapi.Cutoff, id string) int { return strings.Compare(c.AgentID.String(), id) })
	if found {
		from++
	}
	if !since.Equal(noon.Add(-revocation.KeyLifetime)) {
		return nil, errAway
	}
	return slices.Clone(w.cutoffs[from:min(from+registryapi.MaxCutoffs, len(w.cutoffs))]), w.registryErr
}

func (w *world) RecordCutoff(_ context.Context, cutoff revocation.Cutoff, _ time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.recorded = append(w.recorded, cutoff)
	return w.storeErr
}

func (w *world) Load(_ context.Context, revoked []revocation.Revoked, cutoffs []revocation.Cutoff) error {
	if w.meanwhile != nil {
		w.meanwhile()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cacheErr != nil {
		return w.cacheErr
	}
	if w.failLoads > 0 {
		w.failLoads--
		return errAway
	}
	for _, r := range revoked {
		w.cache[r.TokenID] = true
	}
	for _, c := range cutoffs {
		w.cache[c.AgentID.String()] = true
	}
	return nil
}

func (w *world) Hydrate(ctx context.Context, load func(context.Context) error) error {
	w.set(func(w *world) { w.begun++ })
	if err := load(ctx); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hydrated = true
	w.hydrates++
	return nil
}

func (w *world) Hydrated(context.Context) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hydrated, w.cacheErr
}

// set changes the world.
func (w *world) set(change func(*world)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(w)
}

// read answers something about the world.
func (w *world) read(about func(*world) bool) func() bool {
	return func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return about(w)
	}
}

func setup() (*Hydrator, *world) {
	w := &world{cache: map[string]bool{}}
	return New(Config{
		Store: w, Registry: w, Cache: w, Clock: testkit.NewClock(noon).Now, Log: slog.New(slog.DiscardHandler),
	}), w
}

func start(t *testing.T, worker func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- worker(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
}

func TestEverythingThatIsStoredIsLoadedOverAllPages(t *testing.T) {
	t.Parallel()
	h, w := setup()
	for range 2*pageSize + 1 {
		id := uuid.Must(uuid.NewV7())
		w.revoked = append(w.revoked, revocation.Revoked{TokenID: id.String(), ExpiresAt: noon.Add(time.Hour)})
		w.cutoffs = append(w.cutoffs, registryapi.Cutoff{AgentID: uuid.Must(uuid.NewV7()), Status: registryapi.StatusSuspended})
	}
	require.NoError(t, h.hydrate(t.Context()))
	require.Len(t, w.cache, 4*pageSize+2)
	require.True(t, w.hydrated)
}

func TestARevocationIsLoadedForAsLongAsItsTokenMayBeTaken(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		expires time.Duration
		loaded  bool
	}{
		"it expires soon":                       {30 * time.Second, true},
		"it has expired, by one of the clocks":  {-59 * time.Minute, true},
		"it has expired, whatever a clock says": {-2 * time.Hour, false},
	} {
		h, w := setup()
		w.revoked = []revocation.Revoked{{TokenID: uuid.NewString(), ExpiresAt: noon.Add(row.expires)}}
		require.NoError(t, h.hydrate(t.Context()))
		require.Equal(t, row.loaded, w.cache[w.revoked[0].TokenID], name)
	}
}

func TestRedisIsNotMarkedBeforeItIsWhole(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*world){
		"registry away": func(w *world) { w.registryErr = errAway },
		"store away":    func(w *world) { w.storeErr = errAway },
		"redis away":    func(w *world) { w.cacheErr = errAway },
		"an odd jti": func(w *world) {
			w.revoked = slices.Repeat([]revocation.Revoked{{TokenID: "odd", ExpiresAt: noon.Add(time.Hour)}}, pageSize)
		},
	} {
		h, w := setup()
		w.revoked = []revocation.Revoked{{TokenID: uuid.NewString(), ExpiresAt: noon.Add(time.Hour)}}
		prepare(w)
		require.Error(t, h.hydrate(t.Context()), name)
		require.False(t, w.hydrated, name)
	}
}

func TestRedisIsHydratedAfterItLostTheMark(t *testing.T) {
	t.Parallel()
	h, w := setup()
	start(t, h.Run)
	require.Eventually(t, w.read(func(w *world) bool { return w.hydrates == 1 }), 5*time.Second, time.Millisecond)
	w.set(func(w *world) { w.hydrated = false })
	require.Eventually(t, w.read(func(w *world) bool { return w.hydrates == 2 && w.hydrated }), 5*time.Second, 10*time.Millisecond)
}

func TestRedisIsMarkedOnceTheRegistryCanBeAsked(t *testing.T) {
	t.Parallel()
	h, w := setup()
	w.registryErr = errAway
	w.cutoffs = []registryapi.Cutoff{{AgentID: uuid.Must(uuid.NewV7()), Status: registryapi.StatusSuspended}}
	start(t, h.Run)
	require.Eventually(t, w.read(func(w *world) bool { return w.begun > 1 }), 5*time.Second, time.Millisecond, "the first is over")
	require.False(t, w.read(func(w *world) bool { return w.hydrated })())
	w.set(func(w *world) { w.registryErr = nil })
	require.Eventually(t, w.read(func(w *world) bool { return w.hydrated }), 5*time.Second, 10*time.Millisecond)
	require.True(t, w.read(func(w *world) bool { return w.cache[w.cutoffs[0].AgentID.String()] })())
}

func TestWhatNobodyAnnouncedIsBroughtToRedisAsWell(t *testing.T) {
	t.Parallel()
	h, w := setup()
	w.hydrated = true // by a replica before, which was killed before it announced what it had stored
	w.revoked = []revocation.Revoked{{TokenID: uuid.NewString(), ExpiresAt: noon.Add(time.Hour)}}
	start(t, h.Run)
	require.Eventually(t, w.read(func(w *world) bool { return w.cache[w.revoked[0].TokenID] }), 5*time.Second, time.Millisecond)
	w.set(func(w *world) { w.recent = []revocation.Revoked{{TokenID: "by a replica that does not reach redis"}} })
	require.Eventually(t, w.read(func(w *world) bool { return w.cache[w.recent[0].TokenID] }), 5*time.Second, time.Millisecond)
	require.False(t, w.read(func(w *world) bool { return w.hydrates > 0 })(), "the mark needs no renewal")
}

func TestEveryRevocationSinceTheLastLookIsLoaded(t *testing.T) {
	t.Parallel()
	h, w := setup()
	w.hydrated = true
	w.revoked, w.recent = []revocation.Revoked{{TokenID: "old", ExpiresAt: noon.Add(time.Hour)}}, []revocation.Revoked{{TokenID: "new"}}
	require.NoError(t, h.keepUp(t.Context(), recently))
	require.Equal(t, recently+slowest, w.lately)
	require.Equal(t, map[string]bool{"new": true}, w.cache)
	require.NoError(t, h.keepUp(t.Context(), recently+1), "too long ago for one page")
	require.True(t, w.cache["old"])
	w.storeErr = errAway
	for _, age := range []time.Duration{0, time.Hour} {
		require.ErrorIs(t, h.keepUp(t.Context(), age), errAway, "what was missed is still to be loaded")
	}
	w.cacheErr = errAway
	require.ErrorIs(t, h.keepUp(t.Context(), 0), errAway)
}

func TestWhatWasRevokedWhileNobodyCouldLookIsBroughtAsWell(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, w := setup()
		h.Clock, w.hydrated = time.Now, true
		start(t, h.Run)
		<-time.After(checkEvery + checkEvery/2) // between two looks
		const away = slowest + checkEvery
		w.set(func(w *world) { w.storeErr = errAway })
		<-time.After(away)
		w.set(func(w *world) { w.storeErr = nil })
		<-time.After(checkEvery)
		synctest.Wait()
		require.GreaterOrEqual(t, w.lately, away+slowest, "all that one look is for")
	})
}

func TestARevocationOfLateIsBroughtOnce(t *testing.T) {
	t.Parallel()
	h, w := setup()
	w.hydrated = true
	w.recent = []revocation.Revoked{{TokenID: "one"}}
	require.NoError(t, h.keepUp(t.Context(), 0))
	require.Equal(t, map[string]bool{"one": true}, w.cache)

	delete(w.cache, "one") // to see whether it is brought again
	w.recent = append(w.recent, revocation.Revoked{TokenID: "another"})
	w.failLoads = 1
	require.ErrorIs(t, h.keepUp(t.Context(), 0), errAway)
	require.NoError(t, h.keepUp(t.Context(), 0))
	require.Equal(t, map[string]bool{"another": true}, w.cache)
}

func TestWhereNobodyAnswersAnyMoreIsNotWaitedForWithoutEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, w := setup()
		w.hydrated, w.unanswered, w.recent = true, 1, []revocation.Revoked{{TokenID: "lately"}}
		start(t, h.Run)
		<-time.After(lookWait + 3*checkEvery)
		require.True(t, w.read(func(w *world) bool { return w.cache[w.recent[0].TokenID] })())
	})
}

func TestARevocationIsAnnouncedUntilItArrives(t *testing.T) {
	t.Parallel()
	h, w := setup()
	start(t, h.RetryAnnouncements)
	direct := revocation.Revoked{TokenID: "direct", ExpiresAt: noon.Add(time.Hour)}
	h.Announce(t.Context(), direct)
	require.True(t, w.cache["direct"])

	w.set(func(w *world) { w.cacheErr = errAway })
	h.Announce(t.Context(), revocation.Revoked{TokenID: "late", ExpiresAt: noon.Add(time.Hour)})
	h.Announce(t.Context(), revocation.Revoked{TokenID: "pointless", ExpiresAt: noon.Add(-2 * time.Hour)})
	w.set(func(w *world) { w.cacheErr = nil })
	require.Eventually(t, w.read(func(w *world) bool { return w.cache["late"] }), 5*time.Second, 10*time.Millisecond)
	require.False(t, w.read(func(w *world) bool { return w.cache["pointless"] })())
}

func TestACutoffIsAnnouncedUntilItArrivesThoughNobodyHandsItInAgain(t *testing.T) {
	t.Parallel()
	h, w := setup()
	start(t, h.RetryAnnouncements)
	suspended := lifecycle.AgentChanged{AgentID: uuid.Must(uuid.NewV7()), Status: registryapi.StatusSuspended, Revision: 2}
	w.set(func(w *world) { w.cacheErr = errAway })
	require.ErrorIs(t, h.Agent(t.Context(), suspended), errAway, "the stream is to keep it for other replicas")
	next := suspended
	next.AgentID = uuid.Must(uuid.NewV7())
	require.ErrorIs(t, h.Agent(t.Context(), next), errBehind, "the store has it without another wait for redis")
	require.Len(t, w.recorded, 2)
	w.set(func(w *world) { w.cacheErr = nil })
	require.Eventually(t, w.read(func(w *world) bool {
		return w.cache[suspended.AgentID.String()] && w.cache[next.AgentID.String()]
	}), 5*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.cutoffs) == 0
	}, 5*time.Second, 10*time.Millisecond)
}

func TestACutoffThatIsOvertakenWhileItIsAnnouncedIsNotTheLastOne(t *testing.T) {
	t.Parallel()
	h, w := setup()
	suspended := lifecycle.AgentChanged{AgentID: uuid.Must(uuid.NewV7()), Status: registryapi.StatusSuspended, Revision: 2}
	w.cacheErr = errAway
	require.ErrorIs(t, h.Agent(t.Context(), suspended), errAway)
	reactivated := suspended
	reactivated.Status, reactivated.Revision, reactivated.TokensValidAfter = registryapi.StatusActive, 3, noon
	w.cacheErr, w.meanwhile = nil, sync.OnceFunc(func() {
		require.ErrorIs(t, h.Agent(t.Context(), reactivated), errBehind)
		require.ErrorIs(t, h.Agent(t.Context(), suspended), errBehind, "handed in again")
	})
	require.False(t, h.retry(t.Context()))
	require.EqualValues(t, 3, h.cutoffs[suspended.AgentID].Revision)
	require.True(t, h.retry(t.Context()))
}

func TestOnlyChangesThatRefuseTokensAreKept(t *testing.T) {
	t.Parallel()
	id := uuid.Must(uuid.NewV7())
	for name, row := range map[string]struct {
		change lifecycle.AgentChanged
		kept   bool
		block  bool
	}{
		"active from the beginning": {lifecycle.AgentChanged{Status: registryapi.StatusActive}, false, false},
		"suspended":                 {lifecycle.AgentChanged{Status: registryapi.StatusSuspended}, true, true},
		"decommissioned":            {lifecycle.AgentChanged{Status: registryapi.StatusDecommissioned}, true, true},
		"reactivated":               {lifecycle.AgentChanged{Status: registryapi.StatusActive, TokensValidAfter: noon}, true, false},
	} {
		h, w := setup()
		row.change.AgentID, row.change.Revision = id, 3
		require.NoError(t, h.Agent(t.Context(), row.change), name)
		require.Equal(t, row.kept, len(w.recorded) == 1, name)
		require.Equal(t, row.kept, w.cache[id.String()], name)
		if row.kept {
			require.Equal(t, revocation.Cutoff{AgentID: id, Revision: 3, Blocked: row.block, ValidAfter: row.change.TokensValidAfter}, w.recorded[0])
		}
		for _, fail := range []func(*world){func(w *world) { w.storeErr = errAway }, func(w *world) { w.cacheErr = errAway }} {
			h, w := setup()
			fail(w)
			require.Equal(t, row.kept, h.Agent(t.Context(), row.change) != nil, name)
		}
	}
}
