package issue_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

const (
	goodSecret = config.Secret("good")
	issuerURL  = "https://idp.example.com"
)

var (
	start   = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	errAway = apperr.Unavailable(errors.New("away"))
)

// world is everything around the domain, in memory.
type world struct {
	clock   *testkit.Clock
	agent   issue.Agent
	signing *signing
	asked   int // how often the registry was

	mu           sync.Mutex
	agentErr     error
	secretErr    error
	secretReason string
	secretKnown  bool
	agentKnown   bool
	remembered   *issue.Agent // what memory has, if it is not what the registry says
	onItsWay     *issue.Agent // what the registry said to who asked before, likewise
	verified     int
	failures     int
	failureWait  time.Duration
	familiar     bool
	floor        time.Duration
	entered      int
	refused      int
	limited      time.Duration
	crowd        bool
	enterErr     error
	queued       int
	queueErr     error
	screened     int
	screenErr    error
	left         []int // how many failures were counted when an attempt left
	used         []uuid.UUID
	journal      []auditevent.Event
	journalErr   error
	undurable    error
	keyErr       error
	signErr      error
	charge       issue.Charge
	refunded     issue.Charge
	chargeErr    error
	looked       ratelimit.Window
	spent        int
	requests     int
	refunds      int
	outcomes     []string
	principal    authn.Principal
	verifyErr    error
	revoked      bool
	revokedErr   error
	cutoff       revocation.Cutoff
	stored       []issue.Revocation
	storeErr     error
	announced    []revocation.Revoked
}

func newWorld() *world {
	return &world{
		clock: testkit.NewClock(start),
		agent: issue.Agent{
			ID: uuid.Must(uuid.NewV7()), Status: issue.StatusActive, Type: "screener", Owner: "talent",
			DeploymentEnv: "production", AllowedScopes: []string{"agents:read"}, Capabilities: []string{"resume:read", "resume:*"},
		},
		charge: issue.Charge{Window: ratelimit.Window{Limit: 10, Remaining: 9, Allowed: true}},
		looked: ratelimit.Window{Limit: 10, Remaining: 10, Allowed: true},
	}
}

func (w *world) Known(uuid.UUID) (issue.Agent, bool, error) {
	if w.remembered != nil {
		return *w.remembered, true, nil
	}
	return w.agent, w.agentKnown, w.agentErr
}

func (w *world) Agent(ctx context.Context, id uuid.UUID) (issue.Agent, error) {
	if w.onItsWay != nil {
		return *w.onItsWay, nil
	}
	return w.AgentNow(ctx, id)
}

func (w *world) AgentNow(context.Context, uuid.UUID) (issue.Agent, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	return w.agent, w.agentErr
}

// secrets is the world as Secrets, whose method Known has another shape.
type secrets struct{ *world }

func (s secrets) Known(_ uuid.UUID, secret config.Secret) (issue.Verification, bool) {
	if !s.secretKnown || secret != goodSecret {
		return issue.Verification{}, false
	}
	return issue.Verification{Valid: true, CredentialID: s.agent.ID}, true
}

func (s secrets) Familiar(uuid.UUID, config.Secret) bool { return s.familiar }

func (s secrets) Verify(_ context.Context, _ uuid.UUID, secret config.Secret) (issue.Verification, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.verified++
	if s.secretErr != nil {
		return issue.Verification{}, s.secretErr
	}
	if secret != goodSecret || s.secretReason != "" {
		reason := s.secretReason
		if reason == "" {
			reason = auditevent.ReasonInvalidSecret
		}
		return issue.Verification{Reason: reason}, nil
	}
	return issue.Verification{Valid: true, CredentialID: s.agent.ID}, nil
}

func (s secrets) Screen(_ context.Context, _ uuid.UUID, secret config.Secret) (bool, error) {
	s.screened++
	return secret == goodSecret, s.screenErr
}

// failures and outcomes are the world as what counts them.
type failures struct{ *world }

func (f failures) Refused(context.Context) { f.refused++ }

func (f failures) Enter(context.Context, string) (issue.Entry, error) {
	f.entered++
	return issue.Entry{Crowd: f.crowd || f.limited > 0, Limited: f.limited, Leave: func() { f.left = append(f.left, f.failures) }}, f.enterErr
}

func (f failures) Queue(context.Context, string) error {
	f.queued++
	return f.queueErr
}

func (f failures) Count(context.Context, string, string) time.Duration {
	f.failures++
	return f.failureWait
}

type outcomes struct{ *world }

func (o outcomes) Count(outcome string, _ time.Duration) { o.outcomes = append(o.outcomes, outcome) }

func (w *world) Used(credentialID uuid.UUID, _ bool, _ time.Time) {
	w.used = append(w.used, credentialID)
}

func (w *world) Publish(_ context.Context, event auditevent.Event) func() error {
	if w.journalErr != nil {
		return func() error { return w.journalErr }
	}
	w.journal = append(w.journal, event)
	return func() error { return w.undurable }
}

func (w *world) Spend(context.Context, uuid.UUID) (issue.Charge, error) {
	w.spent++
	return w.charge, w.chargeErr
}

func (w *world) Request(context.Context, uuid.UUID) (ratelimit.Window, error) {
	w.requests++
	return w.charge.Window, w.chargeErr
}

func (w *world) Look(context.Context, uuid.UUID) (ratelimit.Window, error) {
	if w.chargeErr != nil {
		return ratelimit.Window{}, w.chargeErr
	}
	return w.looked, nil
}

func (w *world) Refund(ctx context.Context, charge issue.Charge) {
	if ctx.Err() != nil {
		return
	}
	w.refunds++
	w.refunded = charge
}

func (w *world) Untouched() ratelimit.Window {
	return ratelimit.Window{Limit: 10, Remaining: 10, Allowed: true}
}

func (w *world) MonthlyLimit() int64 { return 7 }

func (w *world) Signer() (issue.Sign, error) {
	return func(claims []byte) (string, error) { return "header." + string(claims) + ".signature", w.signErr }, w.keyErr
}

func (w *world) Verify(context.Context, string) (authn.Principal, error) {
	return w.principal, w.verifyErr
}

func (w *world) Resolve(ctx context.Context, query revocation.Query, verdict revocation.Verdict) (bool, error) {
	if verdict == revocation.Unknown {
		return w.Revoked(ctx, query)
	}
	return verdict == revocation.Dead, nil
}

func (w *world) Revoked(context.Context, revocation.Query) (bool, error) {
	return w.revoked, w.revokedErr
}

func (w *world) Revoke(_ context.Context, revoked issue.Revocation, event auditevent.Event) error {
	if w.storeErr != nil {
		return w.storeErr
	}
	w.stored = append(w.stored, revoked)
	w.journal = append(w.journal, event)
	return nil
}

func (w *world) Kept(context.Context, uuid.UUID, uuid.UUID) (bool, revocation.Cutoff, error) {
	return w.revoked, w.cutoff, w.revokedErr
}

func (w *world) Announce(_ context.Context, revoked revocation.Revoked) {
	w.announced = append(w.announced, revoked)
}

func (w *world) events() issue.Events {
	return issue.Events{Clock: w.clock.Now, NewID: func() uuid.UUID { return uuid.Must(uuid.NewV7()) }}
}

func (w *world) authenticator() *issue.Authenticator {
	return issue.NewAuthenticator(issue.AuthenticatorConfig{
		Agents: w, Secrets: secrets{w}, Assertions: w.assertions(), Failures: failures{w}, Uses: w, Journal: w, Events: w.events(),
		Floor: w.floor,
	})
}

func (w *world) issuer() *issue.Issuer {
	return issue.NewIssuer(issue.IssuerConfig{
		Authenticator: w.authenticator(), Budget: w, Keys: w, Journal: w, Events: w.events(),
		URL: issuerURL, TTL: time.Hour, Outcomes: outcomes{w},
	})
}

func (w *world) request(scope string) issue.Request {
	return issue.Request{
		Credentials: issue.Credentials{ClientID: w.agent.ID.String(), Secret: goodSecret},
		Scope:       scope, Origin: auditevent.Origin{IPAddress: "192.0.2.1", RequestID: "r"},
	}
}

// issueFor asks for a token for resources.
func (w *world) issueFor(t *testing.T, resources ...string) (issue.Token, error) {
	t.Helper()
	request := w.request("")
	request.Resources = resources
	token, _, err := w.issuer().Issue(t.Context(), request)
	return token, err
}

// issue asks for a token.
func (w *world) issue(t *testing.T, scope string) (issue.Token, ratelimit.Window, error) {
	t.Helper()
	return w.issuer().Issue(t.Context(), w.request(scope))
}
