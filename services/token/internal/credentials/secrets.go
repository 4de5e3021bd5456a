// Package credentials asks the credentials service whether a secret is good, and
// remembers those that are, not as secrets but as keyed digests. It remembers no
// secret that is not good, and must never log or return one.
package credentials

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/maypok86/otter/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/credentialsapi"
	"github.com/sentryagent/agentidp/pkg/together"
	"github.com/sentryagent/agentidp/services/token/internal/invalidation"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

const (
	lifetime = 5 * time.Minute
	// familiarFor is how long a secret that was good is remembered to have been so:
	// longer than any token lives, as who behaves well comes back when its token ends,
	// and over a weekend. capacity bounds what that takes.
	familiarFor = 7 * 24 * time.Hour
	capacity    = 50_000
	callTimeout = 4 * time.Second
	cacheName   = "secret"

	// maxSecretBytes is the most that is sent to the credentials service; secrets
	// have 72 bytes.
	maxSecretBytes = 128
	// hopelessSecret is sent in the place of what cannot be a secret at all, so that
	// it costs and ends the same. It has the form of a secret and nobody was given it.
	hopelessSecret config.Secret = "sk_live_0000000000000000000000000000000000000000000000000000000000000000" // #nosec G101 -- not a credential
)

// Client is the credentials service's internal API; *credentialsapi.Client is one.
type Client interface {
	Verify(ctx context.Context, request credentialsapi.VerifyRequest) (credentialsapi.VerifyResponse, error)
	Screen(ctx context.Context, secrets []credentialsapi.VerifyRequest) ([]bool, error)
}

// Config is what Secrets needs.
type Config struct {
	Client        Client
	Epochs        *invalidation.Epochs
	Clock         func() time.Time
	CacheRequests *prometheus.CounterVec // labels cache, result
}

type digest [sha256.Size]byte

// Secrets checks client secrets, in memory first.
type Secrets struct {
	client    Client
	epochs    *invalidation.Epochs
	clock     func() time.Time
	key       [sha256.Size]byte // of this process: digests mean nothing outside of it
	cache     *otter.Cache[digest, remembered]
	flights   singleflight.Group
	screens   *together.Trips[credentialsapi.VerifyRequest, screened]
	hit, miss prometheus.Counter
}

var _ issue.Secrets = (*Secrets)(nil)

type remembered struct {
	verification issue.Verification
	validUntil   *time.Time
	at           time.Time
	epoch        uint64
}

// New makes Secrets.
func New(cfg Config) *Secrets {
	s := &Secrets{
		client: cfg.Client,
		epochs: cfg.Epochs,
		clock:  cfg.Clock,
		cache: otter.Must(&otter.Options[digest, remembered]{
			MaximumSize:      capacity,
			ExpiryCalculator: otter.ExpiryWriting[digest, remembered](familiarFor),
		}),
		hit:  cfg.CacheRequests.WithLabelValues(cacheName, "hit"),
		miss: cfg.CacheRequests.WithLabelValues(cacheName, "miss"),
	}
	s.screens = together.New(together.Config{UnderWay: 1, Most: credentialsapi.MaxScreened, Timeout: callTimeout}, s.screen)
	_, _ = rand.Read(s.key[:]) // never fails: the runtime ends the process instead
	return s
}

func (s *Secrets) digest(clientID uuid.UUID, secret config.Secret) digest {
	mac := hmac.New(sha256.New, s.key[:])
	mac.Write(clientID[:])
	mac.Write([]byte(secret.Reveal()))
	return digest(mac.Sum(nil))
}

// Known answers from memory, which has good secrets only.
func (s *Secrets) Known(clientID uuid.UUID, secret config.Secret) (issue.Verification, bool) {
	now := s.clock()
	entry, ok := s.cache.GetIfPresent(s.digest(clientID, secret))
	if !ok || entry.epoch != s.epochs.Of(clientID) ||
		now.Sub(entry.at) > s.epochs.Lifetime(lifetime) || entry.ended(now) {
		s.miss.Inc()
		return issue.Verification{}, false
	}
	s.hit.Inc()
	return entry.verification, true
}

// Familiar tells whether the secret was good when the credentials service was last
// asked about it, within 7 days.
func (s *Secrets) Familiar(clientID uuid.UUID, secret config.Secret) bool {
	entry, ok := s.cache.GetIfPresent(s.digest(clientID, secret))
	return ok && s.clock().Sub(entry.at) <= familiarFor
}

func (r remembered) ended(now time.Time) bool {
	return r.validUntil != nil && !now.Before(*r.validUntil)
}

// Verify asks the credentials service, once for all who ask the same at the same time.
func (s *Secrets) Verify(ctx context.Context, clientID uuid.UUID, secret config.Secret) (issue.Verification, error) {
	if !plausible(secret) {
		secret = hopelessSecret
	}
	epoch := s.epochs.Of(clientID)
	sum := s.digest(clientID, secret)
	key := string(sum[:]) + strconv.FormatUint(epoch, 10)
	result := s.flights.DoChan(key, func() (any, error) {
		// Not the first asker's context: others wait for the same answer.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		return s.ask(ctx, credentialsapi.VerifyRequest{ClientID: clientID, Secret: secret}, sum, epoch)
	})
	select {
	case <-ctx.Done():
		return issue.Verification{}, apperr.Unavailable(ctx.Err())
	case answer := <-result:
		if answer.Err != nil {
			return issue.Verification{}, answer.Err
		}
		return answer.Val.(issue.Verification), nil //nolint:forcetypeassert // ask returns nothing else
	}
}

func (s *Secrets) ask(ctx context.Context, request credentialsapi.VerifyRequest, sum digest, epoch uint64) (issue.Verification, error) {
	at := s.clock()
	response, err := s.client.Verify(ctx, request)
	if err != nil {
		return issue.Verification{}, err
	}
	if !response.Valid {
		reason := response.Reason
		if reason != credentialsapi.ReasonCredentialExpired {
			reason = credentialsapi.ReasonInvalidSecret
		}
		s.cache.Invalidate(sum)
		return issue.Verification{Reason: reason}, nil
	}
	verification := issue.Verification{Valid: true, Previous: response.Previous}
	if response.CredentialID != nil {
		verification.CredentialID = *response.CredentialID
	}
	s.cache.Set(sum, remembered{verification: verification, validUntil: response.ValidUntil, at: at, epoch: epoch})
	return verification, nil
}

// screened is the answer about one secret.
type screened struct {
	plausible bool
	err       error
}

// Screen asks the credentials service whether the client may have such a secret, in one
// call for all who ask at a time.
func (s *Secrets) Screen(ctx context.Context, clientID uuid.UUID, secret config.Secret) (bool, error) {
	if !plausible(secret) {
		secret = hopelessSecret
	}
	answer, err := s.screens.Ask(ctx, credentialsapi.VerifyRequest{ClientID: clientID, Secret: secret})
	if err != nil {
		return false, apperr.Unavailable(err)
	}
	return answer.plausible, answer.err
}

func (s *Secrets) screen(ctx context.Context, secrets []credentialsapi.VerifyRequest) []screened {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answers := make([]screened, len(secrets))
	plausible, err := s.client.Screen(ctx, secrets)
	for i := range answers {
		if answers[i].err = err; err == nil {
			answers[i].plausible = plausible[i]
		}
	}
	return answers
}

// plausible tells whether the credentials service has to look at it at all: secrets are
// visible ASCII, and short.
func plausible(secret config.Secret) bool {
	text := secret.Reveal()
	for i := range len(text) {
		if text[i] < 0x21 || text[i] > 0x7e {
			return false
		}
	}
	return text != "" && len(text) <= maxSecretBytes
}
