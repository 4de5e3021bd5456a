package postgres_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/token/internal/keys"
	"github.com/sentryagent/agentidp/services/token/internal/postgres"
)

const (
	cacheFor = 5 * time.Minute  // how long a verifier keeps a JWKS, whatever happens
	lifetime = 20 * time.Minute // of a token
	interval = 35 * time.Minute // KEY_ROTATION
	step     = 30 * time.Second // a replica looks at the keys every 3 s in truth
)

// caching is a verifier of the plainest kind: it reads the JWKS again when it is 5
// minutes old, and at no other time, not even for a key that it does not know.
type caching struct {
	clock *testkit.Clock

	mu     sync.Mutex
	readAt time.Time
	keys   map[string]authn.Key
}

func (v *caching) verify(token string, from *keys.Ring) error {
	key, err := v.key(token, from)
	if err != nil {
		return err
	}
	_, err = jwt.Parse(token, func(*jwt.Token) (any, error) { return key.Public, nil },
		jwt.WithValidMethods([]string{key.Algorithm}), jwt.WithTimeFunc(v.clock.Now), jwt.WithExpirationRequired())
	return err
}

func (v *caching) key(token string, from *keys.Ring) (authn.Key, error) {
	unverified, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{})
	if err != nil {
		return authn.Key{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.clock.Now().Sub(v.readAt) >= cacheFor {
		if err := v.read(from); err != nil {
			return authn.Key{}, err
		}
	}
	kid, _ := unverified.Header["kid"].(string)
	key, ok := v.keys[kid]
	if !ok {
		return authn.Key{}, fmt.Errorf("key %s is not in the JWKS of %s", kid, v.readAt)
	}
	return key, nil
}

func (v *caching) read(from *keys.Ring) error {
	document, err := from.JWKS()
	if err != nil {
		return err
	}
	published, err := authn.ParseJWKS(document.Body)
	if err != nil {
		return err
	}
	v.readAt, v.keys = v.clock.Now(), map[string]authn.Key{}
	for _, key := range published {
		v.keys[key.ID] = key
	}
	return nil
}

// issued is a token that is verified once more just before it expires.
type issued struct {
	token   string
	expires time.Time
}

// rotation is replicas that sign, and verifiers that cache, while hours go by.
type rotation struct {
	t           *testing.T
	clock       *testkit.Clock
	database    testkit.Database
	propagation time.Duration
	replicas    []*keys.Ring
	verifiers   []*caching
	cut         atomic.Bool // the last replica from Postgres

	verified, failed atomic.Int64
	mu               sync.Mutex
	live             []issued
	signedBy         map[string]bool
	firstFailure     error
}

func newRotation(t *testing.T, propagation time.Duration) *rotation {
	t.Helper()
	r := &rotation{
		t: t, clock: testkit.NewClock(noon), database: testkit.Postgres(t, "token"),
		propagation: propagation, signedBy: map[string]bool{},
	}
	for range 2 {
		r.replicas = append(r.replicas, r.replica(keys.ES256, nil))
	}
	r.replicas = append(r.replicas, r.replica(keys.ES256, &r.cut))
	for i := range 4 { // which read the JWKS at different times
		verifier := &caching{clock: r.clock}
		require.NoError(t, verifier.read(r.replicas[0]))
		verifier.readAt = verifier.readAt.Add(-time.Duration(i) * cacheFor / 4)
		r.verifiers = append(r.verifiers, verifier)
	}
	return r
}

func (r *rotation) sealer() *keys.Sealer {
	sealer, err := keys.NewSealer(base64.StdEncoding.EncodeToString(make([]byte, 32)))
	require.NoError(r.t, err)
	return sealer
}

// severable is the way of one replica to Postgres, which may be cut.
type severable struct {
	keys.Store

	cut *atomic.Bool
}

var errCut = errors.New("no route to the database")

func (s severable) Keys(ctx context.Context) ([]keys.Record, error) {
	if s.cut.Load() {
		return nil, errCut
	}
	return s.Store.Keys(ctx)
}

// replica starts one more replica, with connections of its own. cut may be nil.
func (r *rotation) replica(algorithm keys.Algorithm, cut *atomic.Bool) *keys.Ring {
	var store keys.Store = postgres.NewKeys(testkit.Open(r.t, r.database.AppURL), r.clock.Now)
	if cut != nil {
		store = severable{store, cut}
	}
	ring := keys.NewRing(keys.RingConfig{
		Store: store, Sealer: r.sealer(), Algorithm: algorithm,
		TokenTTL: lifetime, Propagation: r.propagation, Rotation: interval,
		Clock: r.clock.Now, Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(r.t, ring.Pass(r.t.Context()))
	return ring
}

// advance lets a step of time go by: every replica looks at the keys while all of
// them sign, and each token is verified by everybody at once.
func (r *rotation) advance(n int) {
	r.clock.Advance(step)
	var group sync.WaitGroup
	for i, replica := range r.replicas {
		group.Go(func() {
			if err := replica.Pass(r.t.Context()); err != nil && !errors.Is(err, errCut) {
				r.t.Error(err)
			}
		})
		group.Go(func() {
			for range 3 {
				token := r.sign(replica)
				for j, verifier := range r.verifiers {
					r.count(verifier.verify(token.token, r.published(i+j+n)))
				}
			}
		})
	}
	group.Wait()
	r.expire(r.clock.Now().Add(step))
}

// published is the replica of which a verifier asks the JWKS. One that is cut off is
// none: it says by max-age=0 that its document must not be kept, and these verifiers
// keep every one.
func (r *rotation) published(n int) *keys.Ring {
	whole := len(r.replicas)
	if r.cut.Load() {
		whole--
	}
	return r.replicas[n%whole]
}

func (r *rotation) sign(replica *keys.Ring) issued {
	now := r.clock.Now()
	signer, err := replica.Signer()
	if err != nil {
		r.t.Error(err)
		return issued{}
	}
	expires := now.Add(lifetime)
	claims, err := json.Marshal(map[string]any{"iat": now.Unix(), "exp": expires.Unix()})
	if err != nil {
		r.t.Error(err)
	}
	token, err := signer.Sign(claims)
	if err != nil {
		r.t.Error(err)
	}
	made := issued{token, expires}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live, r.signedBy[signer.ID] = append(r.live, made), true
	return made
}

// expire verifies the tokens that expire before the next step for the last time.
func (r *rotation) expire(before time.Time) {
	r.live = slices.DeleteFunc(r.live, func(made issued) bool {
		ends := !made.expires.After(before)
		if ends {
			for _, verifier := range r.verifiers {
				r.count(verifier.verify(made.token, r.replicas[0]))
			}
		}
		return ends
	})
}

func (r *rotation) count(err error) {
	r.verified.Add(1)
	if err != nil {
		r.failed.Add(1)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.firstFailure == nil {
			r.firstFailure = fmt.Errorf("at %s: %w", r.clock.Now(), err)
		}
	}
}

// run lets time go by. The keys are rotated by schedule, once by command, and once
// for another algorithm, with which the replicas are restarted one by one.
func (r *rotation) run(period time.Duration) {
	custodian := keys.NewCustodian(keys.CustodianConfig{
		Store: postgres.NewKeys(testkit.Open(r.t, r.database.AppURL), r.clock.Now), Sealer: r.sealer(),
		Propagation: r.propagation,
	})
	steps := int(period / step)
	for n := range steps {
		switch n {
		case steps / 4:
			_, err := custodian.Rotate(r.t.Context())
			require.NoError(r.t, err)
		case steps / 2, steps/2 + 5, steps/2 + 10:
			r.replicas[(n-steps/2)/5] = r.replica(keys.EdDSA, nil)
		}
		r.advance(n)
	}
	r.rest()
}

// rest lets the tokens expire that are left, while nobody signs any more.
func (r *rotation) rest() {
	for range int(lifetime / step) {
		r.clock.Advance(step)
		for _, replica := range r.replicas {
			require.NoError(r.t, replica.Pass(r.t.Context()))
		}
		r.expire(r.clock.Now().Add(step))
	}
}

func TestNoVerificationFailsWhileKeysRotateUnderLoad(t *testing.T) {
	t.Parallel()
	r := newRotation(t, 10*time.Minute)
	r.run(3 * time.Hour)
	t.Logf("%d verifications over %d keys, %d failed", r.verified.Load(), len(r.signedBy), r.failed.Load())
	require.Zero(t, r.failed.Load(), "%v", r.firstFailure)
	require.GreaterOrEqual(t, len(r.signedBy), 6, "it rotated several times")
	require.Greater(t, r.verified.Load(), int64(20_000))
	require.Empty(t, r.live)
}

// The proof above is worth something because it fails for keys that sign before
// every cache can have them.
func TestVerificationsFailWhereKeysSignTooSoon(t *testing.T) {
	t.Parallel()
	for _, propagation := range []time.Duration{0, 2 * time.Minute} {
		r := newRotation(t, propagation)
		r.run(time.Hour)
		t.Logf("published for %s: %d of %d verifications failed", propagation, r.failed.Load(), r.verified.Load())
		require.NotZero(t, r.failed.Load(), "published for %s", propagation)
	}
}

func TestNoVerificationFailsWhileAReplicaIsCutOffFromPostgres(t *testing.T) {
	t.Parallel()
	r := newRotation(t, 10*time.Minute)
	for n := range int(2 * time.Hour / step) {
		if at := time.Duration(n) * step; at == interval-step { // the key that signs is retired soon after
			r.cut.Store(true)
		} else if at == interval+58*time.Minute {
			r.cut.Store(false)
		}
		r.advance(n)
	}
	r.rest()
	require.Zero(t, r.failed.Load(), "%v", r.firstFailure)
	require.GreaterOrEqual(t, len(r.signedBy), 4, "it rotated several times")
	require.Empty(t, r.live)
}
