package token

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/credentialsapi"
	"github.com/sentryagent/agentidp/pkg/guard"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/pkg/sweep"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/services/token/internal/assertion"
	"github.com/sentryagent/agentidp/services/token/internal/clientkeys"
	"github.com/sentryagent/agentidp/services/token/internal/credentials"
	"github.com/sentryagent/agentidp/services/token/internal/httpapi"
	"github.com/sentryagent/agentidp/services/token/internal/hydration"
	"github.com/sentryagent/agentidp/services/token/internal/invalidation"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
	"github.com/sentryagent/agentidp/services/token/internal/journal"
	"github.com/sentryagent/agentidp/services/token/internal/keys"
	"github.com/sentryagent/agentidp/services/token/internal/postgres"
	"github.com/sentryagent/agentidp/services/token/internal/quota"
	"github.com/sentryagent/agentidp/services/token/internal/registry"
	"github.com/sentryagent/agentidp/services/token/internal/usage"
)

// failureFloor is longer than a quiet machine takes to look a client up.
const failureFloor = 10 * time.Millisecond

// parts makes the parts, ties them together, and answers those that the routes need.
func (s *Service) parts(ctx context.Context, cfg Config) (httpapi.Config, error) {
	r := s.replica
	box := outbox.New(serviceName)
	s.relay = box.NewRelay(outbox.RelayConfig{DB: r.DB, Conn: r.NATS, Telemetry: r.Telemetry, Clock: time.Now})
	s.journal = journal.New(issue.Service, r.NATS, postgres.NewOutbox(r.DB, box), r.Telemetry.Log)
	s.epochs = invalidation.New(r.NATS.Connected)

	if err := s.wireKeys(cfg); err != nil {
		return httpapi.Config{}, err
	}
	registered := registryapi.NewClient(r.Peer("registry", cfg.Tokens.RegistryURL))
	secrets := s.wirePeers(cfg, registered)

	revocations := postgres.NewRevocations(r.DB, box)
	truth := issue.NewTruth(issue.TruthConfig{Store: revocations, Agents: s.agents})
	checker := revocation.NewChecker(r.Redis, truth.Revoked)
	s.sweep("revocations", revocations.Purge)
	s.hydrator = hydration.New(hydration.Config{
		Store: revocations, Registry: registered, Cache: revocation.NewStore(r.Redis),
		Clock: time.Now, Log: r.Telemetry.Log,
	})

	limiter := ratelimit.New(r.Redis, r.Telemetry)
	// Who calls here needs a token for here; what is asked about may be for any resource.
	verifier := authn.NewVerifier(authn.VerifierConfig{Issuer: cfg.Guard.Issuer, Audience: cfg.Guard.Issuer, Keys: s.ring, Clock: time.Now})
	ours := authn.NewVerifier(authn.VerifierConfig{Issuer: cfg.Guard.Issuer, AnyAudience: true, Keys: s.ring, Clock: time.Now})
	// What has ended here may still be taken where the clock is another.
	revocable := authn.NewVerifier(authn.VerifierConfig{
		Issuer: cfg.Guard.Issuer, AnyAudience: true, Keys: s.ring, Clock: time.Now, Leeway: revocation.Margin,
	})
	authorizer, err := authz.New(ctx, cfg.Guard.Policy, r.Telemetry.Log)
	if err != nil {
		return httpapi.Config{}, fmt.Errorf("policy: %w", err)
	}
	s.guard = guard.New(guard.Options{
		Verifier: verifier, Redis: r.Redis, Limiter: limiter, Revocations: checker,
		Authorizer: authorizer, Config: cfg.Guard, Telemetry: r.Telemetry, Clock: time.Now,
	})
	s.budget = quota.New(quota.Config{
		Redis: r.Redis, Limiter: limiter, Store: postgres.NewQuota(r.DB), Clock: time.Now, Log: r.Telemetry.Log,
		RatePerMinute: cfg.Guard.RateLimitPerMinute, TokensPerMonth: cfg.Tokens.MonthlyTokens,
	})

	s.failures = quota.NewFailures(r.Redis, limiter, cfg.Tokens.AuthFailuresPerMinute)
	events := issue.Events{Clock: time.Now, NewID: newID}
	assertions, err := s.wireAssertions(cfg)
	if err != nil {
		return httpapi.Config{}, err
	}
	clients := issue.NewAuthenticator(issue.AuthenticatorConfig{
		Agents: s.agents, Secrets: secrets, Assertions: assertions, Uses: s.uses, Journal: s.journal, Events: events,
		Failures: s.failures,
		Floor:    failureFloor,
	})
	return httpapi.Config{
		Issuer: issue.NewIssuer(issue.IssuerConfig{
			Authenticator: clients, Budget: s.budget, Keys: signing{s.ring}, Journal: s.journal, Events: events,
			URL: cfg.Guard.Issuer, TTL: cfg.Tokens.TokenTTL, Outcomes: countTokens(r.Telemetry.Metrics.Registry),
		}),
		Clients: clients,
		Budget:  s.budget,
		Introspector: issue.NewIntrospector(issue.IntrospectorConfig{
			Verifier: ours, Revocations: checker, Journal: s.journal, Events: events,
		}),
		Revoker: issue.NewRevoker(issue.RevokerConfig{
			Verifier: revocable, Store: revocations, Announcer: s.hydrator, Events: events,
		}),
		Guard: s.guard,
		Keys:  s.ring,
		Truth: truth.Revoked,
		URL:   cfg.Guard.Issuer,
	}, nil
}

func (s *Service) wireKeys(cfg Config) error {
	r := s.replica
	sealer, err := keys.NewSealer(cfg.Tokens.Keys.EncryptionKey.Reveal())
	if err != nil {
		return fmt.Errorf("KEY_ENCRYPTION_KEY: %w", err)
	}
	algorithm, err := keys.ParseAlgorithm(cfg.Tokens.SigningAlg)
	if err != nil {
		return fmt.Errorf("SIGNING_ALG: %w", err)
	}
	imported, err := cfg.Tokens.imported()
	if err != nil {
		return fmt.Errorf("JWT_PRIVATE_KEY: %w", err)
	}
	s.ring = keys.NewRing(keys.RingConfig{
		Store: postgres.NewKeys(r.DB, nil), Sealer: sealer, Algorithm: algorithm, Import: imported,
		TokenTTL: cfg.Tokens.TokenTTL, Propagation: cfg.Tokens.Keys.Propagation, Rotation: cfg.Tokens.KeyRotation,
		Clock: time.Now, Log: r.Telemetry.Log,
	})
	r.Telemetry.Metrics.Registry.MustRegister(keys.NewMetrics(s.ring))
	return nil
}

func (s *Service) wireAssertions(cfg Config) (*issue.Assertions, error) {
	r := s.replica
	verifier, err := assertion.NewVerifier(cfg.Guard.Issuer, time.Now)
	if err != nil {
		return nil, err
	}
	used := postgres.NewAssertionIDs(r.DB)
	s.sweep("used assertions", used.Purge)
	published := clientkeys.New(clientkeys.Config{
		Fetch: clientkeys.NewFetcher().Fetch, Clock: time.Now, Log: r.Telemetry.Log,
		CacheRequests: r.Telemetry.Metrics.CacheRequests,
	})
	return issue.NewAssertions(issue.AssertionsConfig{Agents: s.agents, Verifier: verifier, Keys: published, IDs: used, Budget: s.budget}), nil
}

func (s *Service) sweep(what string, purge sweep.Purge) {
	sweeper := &sweep.Sweeper{Purge: purge, What: what, Clock: time.Now, Log: s.replica.Telemetry.Log}
	s.sweeps = append(s.sweeps, sweeper.Run)
}

func (s *Service) wirePeers(cfg Config, registered *registryapi.Client) *credentials.Secrets {
	r := s.replica
	s.agents = registry.New(registry.Config{
		Client: registered,
		Epochs: s.epochs, Clock: time.Now, CacheRequests: r.Telemetry.Metrics.CacheRequests,
	})
	client := credentialsapi.NewClient(r.Peer("credentials", cfg.Tokens.CredentialsURL))
	s.uses = usage.New(client, r.Telemetry.Log)
	return credentials.New(credentials.Config{
		Client: client, Epochs: s.epochs, Clock: time.Now, CacheRequests: r.Telemetry.Metrics.CacheRequests,
	})
}

// signing is the key ring as the issuer uses it.
type signing struct{ ring *keys.Ring }

// Signer answers the signature of the key that is active now.
func (s signing) Signer() (issue.Sign, error) {
	key, err := s.ring.Signer()
	if err != nil {
		return nil, err
	}
	return key.Sign, nil
}

// newID makes time-ordered ids (UUIDv7): neighbours in time are neighbours in the index.
func newID() uuid.UUID { return uuid.Must(uuid.NewV7()) }

type outcomes struct {
	counter  *prometheus.CounterVec
	duration prometheus.Histogram
}

// Count counts one request for a token. How long a refusal took is nobody's measure: some are slow on purpose.
func (o outcomes) Count(outcome string, took time.Duration) {
	o.counter.WithLabelValues(outcome).Inc()
	if outcome == issue.OutcomeSuccess {
		o.duration.Observe(took.Seconds())
	}
}

// countTokens registers the metrics of tokens, with every outcome there is at zero.
func countTokens(metrics prometheus.Registerer) issue.Outcomes {
	counter := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "agentidp_tokens_issued_total",
		Help: "Requests for a token, by outcome: success, or why there was none.",
	}, []string{"outcome"})
	for _, outcome := range issue.AllOutcomes() {
		counter.WithLabelValues(outcome)
	}
	duration := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "agentidp_token_issue_duration_seconds",
		Help:    "Time to issue a token, of those that were issued.",
		Buckets: telemetry.Seconds(),
	})
	metrics.MustRegister(counter, duration)
	return outcomes{counter, duration}
}
