package keys

import (
	"context"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

var start = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)

// memory is a Store that several rings may share, with a clock of its own.
type memory struct {
	clock   func() time.Time
	mu      sync.Mutex
	records []Record
	err     error
	reads   int
}

func newMemory() (*memory, *testkit.Clock) {
	clock := testkit.NewClock(start)
	return &memory{clock: clock.Now}, clock
}

func (m *memory) Keys(context.Context) ([]Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	return slices.Clone(m.records), m.err
}

func (m *memory) Change(_ context.Context, decide func([]Record, time.Time) Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	change := decide(slices.Clone(m.records), m.clock())
	m.records = slices.DeleteFunc(m.records, func(r Record) bool { return slices.Contains(change.Withdraw, r.ID) })
	for i := range m.records {
		record := &m.records[i]
		switch {
		case slices.Contains(change.Bury, record.ID):
			if record.State == Active {
				record.RetiredAt = &change.At
			}
			record.State, record.Sealed, record.TokenTTL, record.GoneAt = Gone, nil, 0, &change.At
		case change.Retire == record.ID:
			record.State, record.RetiredAt, record.GoneAt = Retired, &change.At, &change.GoneAt
		case change.Activate == record.ID:
			record.State, record.ActivatedAt = Active, &change.At
		}
		if slices.Contains(change.RaiseTTL, record.ID) {
			record.TokenTTL = max(record.TokenTTL, change.TTL)
		}
	}
	if change.Insert != nil {
		m.records = append(m.records, *change.Insert)
	}
	return nil
}

// states counts the keys by state.
func (m *memory) states() map[State]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	count := map[State]int{}
	for _, record := range m.records {
		count[record.State]++
	}
	return count
}

func (m *memory) one(t *testing.T, state State) Record {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	record := find(m.records, state)
	require.NotNil(t, record, "no key is %s", state)
	return *record
}

func (m *memory) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

func testSealer(t *testing.T, fill byte) *Sealer {
	t.Helper()
	sealer, err := NewSealer(base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(rune(fill)), 32))))
	require.NoError(t, err)
	return sealer
}

func ring(t *testing.T, store Store, clock *testkit.Clock, alg Algorithm, change ...func(*RingConfig)) *Ring {
	t.Helper()
	cfg := RingConfig{
		Store: store, Sealer: testSealer(t, 'k'), Algorithm: alg, TokenTTL: time.Hour,
		Propagation: 10 * time.Minute, Clock: clock.Now, Log: slog.New(slog.DiscardHandler),
	}
	for _, apply := range change {
		apply(&cfg)
	}
	return NewRing(cfg)
}

func pass(t *testing.T, rings ...*Ring) {
	t.Helper()
	for _, r := range rings {
		require.NoError(t, r.Pass(t.Context()))
	}
}

func signs(t *testing.T, r *Ring) string {
	t.Helper()
	signer, err := r.Signer()
	require.NoError(t, err)
	return signer.ID
}

func kidsOf(t *testing.T, r *Ring) []string {
	t.Helper()
	document, err := r.JWKS()
	require.NoError(t, err)
	published, err := authn.ParseJWKS(document.Body)
	require.NoError(t, err)
	var kids []string
	for _, key := range published {
		kids = append(kids, key.ID)
	}
	return kids
}

func TestEveryAlgorithmSignsWhatItsPublishedKeyVerifies(t *testing.T) {
	t.Parallel()
	for _, alg := range []Algorithm{RS256, ES256, EdDSA} {
		t.Run(string(alg), func(t *testing.T) {
			t.Parallel()
			store, clock := newMemory()
			r := ring(t, store, clock, alg)
			require.NoError(t, r.Pass(t.Context()))
			signer, err := r.Signer()
			require.NoError(t, err)
			compact, err := signer.Sign([]byte(`{"sub":"x"}`))
			require.NoError(t, err)

			document, err := r.JWKS()
			require.NoError(t, err)
			published, err := authn.ParseJWKS(document.Body)
			require.NoError(t, err)
			require.Len(t, published, 1)
			parsed, err := jwt.Parse(compact, func(token *jwt.Token) (any, error) {
				require.Equal(t, map[string]any{"alg": string(alg), "typ": "at+jwt", "kid": published[0].ID}, token.Header)
				return published[0].Public, nil
			}, jwt.WithValidMethods([]string{string(alg)}))
			require.NoError(t, err)
			require.True(t, parsed.Valid)
			if key, ok := published[0].Public.(*rsa.PublicKey); ok {
				require.Equal(t, 2048, key.N.BitLen())
			}
		})
	}
	_, err := ParseAlgorithm("HS256")
	require.Error(t, err)
	_, err = Algorithm("none").generate()
	require.Error(t, err)
	_, err = newSigningKey("kid", "XX", nil)
	require.Error(t, err)
}

func TestSealedKeysOpenOnlyWhereTheyBelong(t *testing.T) {
	t.Parallel()
	sealer := testSealer(t, 'k')
	private, err := ES256.generate()
	require.NoError(t, err)
	sealed, err := sealer.seal("kid", ES256, private)
	require.NoError(t, err)
	opened, err := sealer.open("kid", ES256, sealed)
	require.NoError(t, err)
	require.Equal(t, private, opened)

	again, err := sealer.seal("kid", ES256, private)
	require.NoError(t, err)
	require.NotEqual(t, sealed, again, "every sealing has a nonce of its own")

	flipped := slices.Clone(sealed)
	flipped[len(flipped)-1] ^= 1
	for name, open := range map[string]func() error{
		"under another id":       func() error { _, err := sealer.open("other", ES256, sealed); return err },
		"for another algorithm":  func() error { _, err := sealer.open("kid", EdDSA, sealed); return err },
		"with another key":       func() error { _, err := testSealer(t, 'x').open("kid", ES256, sealed); return err },
		"after it was changed":   func() error { _, err := sealer.open("kid", ES256, flipped); return err },
		"when it was cut short":  func() error { _, err := sealer.open("kid", ES256, sealed[:5]); return err },
		"of another kind of key": func() error { return sealAndOpen(sealer, RS256) },
		"that is no key at all":  func() error { return openRaw(sealer, []byte("not PKCS 8")) },
	} {
		require.Error(t, open(), name)
	}
	for _, key := range []string{"", "c2hvcnQ=", "not base64!", base64.StdEncoding.EncodeToString(make([]byte, 33))} {
		_, err := NewSealer(key)
		require.Error(t, err)
		if key != "" {
			require.NotContains(t, err.Error(), key)
		}
	}
}

// sealAndOpen seals an Ed25519 key as one of another algorithm.
func sealAndOpen(sealer *Sealer, alg Algorithm) error {
	private, err := EdDSA.generate()
	if err != nil {
		return nil //nolint:nilerr // the caller wants an error
	}
	sealed, err := sealer.seal("kid", alg, private)
	if err != nil {
		return nil //nolint:nilerr // the caller wants an error
	}
	_, err = sealer.open("kid", alg, sealed)
	return err
}

func openRaw(sealer *Sealer, content []byte) error {
	nonce := make([]byte, sealer.aead.NonceSize())
	_, err := sealer.open("kid", ES256, sealer.aead.Seal(nonce, nonce, content, associated("kid", ES256)))
	return err
}

func TestReplicasThatStartTogetherShareOneFirstKey(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	var group sync.WaitGroup
	rings := make([]*Ring, 8)
	for i := range rings {
		rings[i] = ring(t, store, clock, ES256)
		group.Go(func() { _ = rings[i].Pass(t.Context()) })
	}
	group.Wait()
	require.Len(t, store.records, 1)
	require.Equal(t, Active, store.records[0].State)
	for _, r := range rings {
		require.NoError(t, r.Pass(t.Context()))
		signer, err := r.Signer()
		require.NoError(t, err)
		require.Equal(t, store.records[0].ID, signer.ID)
	}
}

func TestAChangedAlgorithmIsPublishedBeforeItSigns(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	old := ring(t, store, clock, ES256)
	require.NoError(t, old.Pass(t.Context()))
	oldKey := store.records[0].ID

	fresh := ring(t, store, clock, EdDSA)
	require.NoError(t, fresh.Pass(t.Context()))
	require.Len(t, kidsOf(t, fresh), 2, "the next key is published")
	signer, err := fresh.Signer()
	require.NoError(t, err)
	require.Equal(t, oldKey, signer.ID, "and does not sign yet")

	clock.Advance(9 * time.Minute)
	require.NoError(t, fresh.Pass(t.Context()))
	signer, _ = fresh.Signer()
	require.Equal(t, oldKey, signer.ID)

	clock.Advance(time.Minute)
	require.NoError(t, old.Pass(t.Context()), "a replica with the old setting moves it on as well")
	require.NoError(t, fresh.Pass(t.Context()))
	signer, _ = fresh.Signer()
	require.Equal(t, EdDSA, signer.Algorithm)
	require.Contains(t, kidsOf(t, fresh), oldKey, "the old key stays for its tokens")

	clock.Advance(time.Hour)
	require.NoError(t, fresh.Pass(t.Context()))
	require.Contains(t, kidsOf(t, fresh), oldKey)
	clock.Advance(retirementMargin)
	require.NoError(t, fresh.Pass(t.Context()))
	require.NotContains(t, kidsOf(t, fresh), oldKey)
	require.Equal(t, map[State]int{Active: 1, Gone: 1}, store.states())
	require.Empty(t, store.one(t, Gone).Sealed, "its private half is deleted")
}

func TestAKeyThatNoLongerIsWantedNeverSigns(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	require.NoError(t, ring(t, store, clock, ES256).Pass(t.Context()))
	require.NoError(t, ring(t, store, clock, EdDSA).Pass(t.Context()))
	require.Len(t, store.records, 2)
	require.NoError(t, ring(t, store, clock, ES256).Pass(t.Context()))
	require.Len(t, store.records, 1)
	require.Equal(t, ES256, store.records[0].Algorithm)
}

func TestALongerTokenLifetimeKeepsTheKeyLonger(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	require.NoError(t, ring(t, store, clock, ES256).Pass(t.Context()))
	long := ring(t, store, clock, ES256)
	long.policy.tokenTTL = 24 * time.Hour
	require.NoError(t, long.Pass(t.Context()))
	require.Equal(t, 24*time.Hour, store.records[0].TokenTTL)

	short := ring(t, store, clock, EdDSA)
	require.NoError(t, short.Pass(t.Context()))
	clock.Advance(10 * time.Minute)
	require.NoError(t, short.Pass(t.Context()))
	retired := find(store.records, Retired)
	require.Equal(t, clock.Now().Add(24*time.Hour+retirementMargin), *retired.GoneAt)
}

func TestTheRingGoesOnWithoutItsStore(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	r := ring(t, store, clock, ES256)
	_, err := r.Signer()
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	_, err = r.JWKS()
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))

	store.fail(errors.New("away"))
	require.Error(t, r.Pass(t.Context()))
	_, err = r.Key(t.Context(), "unknown")
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err), "what cannot be looked up is not unknown")

	store.fail(nil)
	require.NoError(t, r.Pass(t.Context()))
	store.fail(errors.New("away"))
	require.Error(t, r.Pass(t.Context()))
	signer, err := r.Signer()
	require.NoError(t, err)
	_, err = r.Key(t.Context(), signer.ID)
	require.NoError(t, err)
	clock.Advance(rereadEvery)
	_, err = r.Key(t.Context(), "unknown")
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
}

func TestAnUnknownKeyIsLookedForAtMostOnceASecond(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	first := ring(t, store, clock, ES256)
	late := ring(t, store, clock, ES256)
	require.NoError(t, first.Pass(t.Context()))
	signer, err := first.Signer()
	require.NoError(t, err)
	key, err := late.Key(t.Context(), signer.ID)
	require.NoError(t, err, "another replica made it meanwhile")
	require.Equal(t, "ES256", key.Algorithm)

	reads := store.reads
	for range 100 {
		_, err := late.Key(t.Context(), "garbage")
		require.ErrorIs(t, err, authn.ErrUnknownKey)
	}
	require.Equal(t, reads, store.reads)
	clock.Advance(rereadEvery)
	_, err = late.Key(t.Context(), "garbage")
	require.ErrorIs(t, err, authn.ErrUnknownKey)
	require.Equal(t, reads+1, store.reads)
}

func TestAKeyThatDoesNotOpenIsAnError(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	require.NoError(t, ring(t, store, clock, ES256).Pass(t.Context()))
	other := ring(t, store, clock, ES256)
	other.sealer = testSealer(t, 'x')
	require.ErrorContains(t, other.Pass(t.Context()), "KEY_ENCRYPTION_KEY")
	_, err := other.Signer()
	require.Error(t, err)
}

func TestRunLoadsTheKeysAndEndsWithItsContext(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	store.fail(errors.New("not up yet"))
	r := ring(t, store, clock, ES256)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	store.fail(nil)
	require.Eventually(t, func() bool { _, err := r.Signer(); return err == nil }, 5*time.Second, 10*time.Millisecond)
	cancel()
	require.NoError(t, <-done)
}
