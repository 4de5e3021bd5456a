package issue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/pkg/timeid"
)

// Charge is what became of a request at the budget of its client.
type Charge struct {
	// Window is the client's rate window after the request.
	Window ratelimit.Window
	// QuotaExceeded tells that the month's tokens are used up. Then, and when the
	// window does not allow the request, nothing was taken from the quota.
	QuotaExceeded bool
	// ClientID and Month (the first of it, UTC) say whose quota was charged, and of
	// when; without a quota they are not set.
	ClientID uuid.UUID
	Month    time.Time
	// Lasting tells that the quota was charged where it is kept for good, and not in a
	// counter that is written behind; it is given back there.
	Lasting bool
}

// Budget is what a client may spend: requests per minute, tokens per calendar month (UTC).
type Budget interface {
	// Spend charges the rate window with a request and, if that is allowed, the
	// quota with a token, in one step. An error means that the quota is not known.
	Spend(ctx context.Context, clientID uuid.UUID) (Charge, error)
	// Request charges the rate window alone.
	Request(ctx context.Context, clientID uuid.UUID) (ratelimit.Window, error)
	// Look answers what Request would, and charges nothing.
	Look(ctx context.Context, clientID uuid.UUID) (ratelimit.Window, error)
	// Refund gives a token back that was charged and not issued.
	Refund(ctx context.Context, charge Charge)
	// Untouched is the window of a client that is not known.
	Untouched() ratelimit.Window
	// MonthlyLimit is the quota, 0 for none.
	MonthlyLimit() int64
}

// Sign answers the compact JWS of the claims.
type Sign func(claims []byte) (string, error)

// Keys has the key that is active now.
type Keys interface {
	// Signer answers apperr.ServiceUnavailable while no key is loaded.
	Signer() (Sign, error)
}

// IssuerConfig is what an Issuer needs.
type IssuerConfig struct {
	Authenticator *Authenticator
	Budget        Budget
	Keys          Keys
	Journal       Journal
	Events        Events
	URL           string        // the issuer: iss of every token, and aud of those that name no resource
	TTL           time.Duration // lifetime of a token, whole seconds
	Outcomes      Outcomes
}

// Outcomes counts what became of requests for a token, and how long that took; not, for those that never came to Issue.
type Outcomes interface {
	Count(outcome string, took time.Duration)
}

// Issuer issues access tokens by the client credentials grant (RFC 6749 §4.4).
type Issuer struct {
	IssuerConfig

	audience Audience // of a token that was asked for without a resource
}

// NewIssuer makes an Issuer.
func NewIssuer(cfg IssuerConfig) *Issuer {
	return &Issuer{IssuerConfig: cfg, audience: Audience{cfg.URL}}
}

// Request asks for a token. Scope and Resources are as they came, empty if there were none.
type Request struct {
	Credentials Credentials
	Scope       string
	Resources   []string
	Origin      auditevent.Origin
}

// Token is an issued token.
type Token struct {
	Access    string
	ExpiresIn time.Duration
	Scope     string
}

// Issue answers a token or a Refusal, and in either case the client's rate window
// for the response. Its event is durable before the token is returned.
func (i *Issuer) Issue(ctx context.Context, request Request) (Token, ratelimit.Window, error) {
	began := i.Events.Clock()
	token, window, err := i.issue(ctx, request)
	i.Outcomes.Count(outcome(err), i.Events.Clock().Sub(began))
	return token, window, err
}

// Refused counts a request that was refused before it came to Issue.
func (i *Issuer) Refused(err error) { i.Outcomes.Count(outcome(err), 0) }

func (i *Issuer) issue(ctx context.Context, request Request) (Token, ratelimit.Window, error) {
	agent, err := i.Authenticator.Authenticate(ctx, request.Credentials, request.Origin)
	if err != nil {
		return Token{}, WindowOf(err, i.Budget.Untouched()), err
	}
	origin := request.Origin
	origin.ActorID = &agent.ID
	scopes, audience, err := i.resolve(agent, request)
	if errors.Is(err, errNotAllowed) {
		// What it may ask for may have changed a moment ago: nobody is refused for what is remembered. But nobody is asked
		// for a client without limit.
		if window, lookErr := i.Budget.Look(ctx, agent.ID); lookErr == nil && !window.Allowed {
			return Token{}, window, rateLimited(window)
		}
		agent, err = i.Authenticator.Anew(ctx, agent, request.Origin)
		if failed(err) {
			return Token{}, i.Budget.Untouched(), err
		}
		if err == nil {
			scopes, audience, err = i.resolve(agent, request)
		}
	}
	if agent.Status != StatusActive || err != nil {
		window, refusal := i.refuse(ctx, agent, origin, err)
		return Token{}, window, refusal
	}
	sign, err := i.Keys.Signer() // before anything is spent or recorded
	if err != nil {
		return Token{}, i.Budget.Untouched(), unavailable(err)
	}
	charge, err := i.Budget.Spend(ctx, agent.ID)
	switch {
	case err != nil:
		return Token{}, i.Budget.Untouched(), unavailable(err)
	case !charge.Window.Allowed:
		return Token{}, charge.Window, rateLimited(charge.Window)
	case charge.QuotaExceeded:
		return Token{}, charge.Window, i.overQuota(ctx, agent, origin)
	}
	token, err := i.make(ctx, grant{agent, scopes, audience, origin, sign})
	if err != nil {
		i.Budget.Refund(context.WithoutCancel(ctx), charge)
		return Token{}, charge.Window, unavailable(err)
	}
	return token, charge.Window, nil
}

// resolve decides what the token is good for, and where. What is wrong for every agent comes first; of the rest the error
// is errNotAllowed.
func (i *Issuer) resolve(agent Agent, request Request) (scopes []string, audience Audience, err error) {
	if err = checkScope(request.Scope); err != nil {
		return nil, nil, err
	}
	if err = checkResources(request.Resources, i.URL); err != nil {
		return nil, nil, err
	}
	if scopes, err = resolveScope(agent, request.Scope); err != nil {
		return nil, nil, err
	}
	audience, err = resolveAudience(agent, request.Resources, i.URL)
	return scopes, audience, err
}

// refuse answers a known client that gets no token because of its status, which
// comes first, or of the scope or resource it asked for, or because nobody can say whether it may have those. It is charged
// for the request all the same: who holds a secret must not ask without limit, nor fill the audit trail.
func (i *Issuer) refuse(ctx context.Context, agent Agent, origin auditevent.Origin, otherwise error) (ratelimit.Window, error) {
	window, err := i.Budget.Request(ctx, agent.ID)
	if err != nil {
		return i.Budget.Untouched(), unavailable(err)
	}
	if !window.Allowed {
		return window, rateLimited(window)
	}
	if err := i.Authenticator.Active(ctx, agent, origin); err != nil {
		return window, err
	}
	return window, otherwise
}

func (i *Issuer) overQuota(ctx context.Context, agent Agent, origin auditevent.Origin) error {
	if err := i.Authenticator.recordFailure(ctx, &agent.ID, auditevent.ReasonQuotaExceeded, origin); err != nil {
		return err
	}
	refusal := Refuse(UnauthorizedClient,
		fmt.Sprintf("The limit of %d tokens in a calendar month is reached.", i.Budget.MonthlyLimit()))
	refusal.cause = errOverQuota
	return refusal
}

// grant is what was decided about a request before its token is made.
type grant struct {
	agent    Agent
	scopes   []string
	audience Audience // nil for the issuer
	origin   auditevent.Origin
	sign     Sign
}

// make signs the token while its event is on the way, and returns it once that is durable.
func (i *Issuer) make(ctx context.Context, granted grant) (Token, error) {
	agent := granted.agent
	at := issueTime(i.Events.Clock(), agent.TokensValidAfter)
	id := timeid.At(i.Events.NewID(), at).String()
	subject, scope := agent.ID.String(), strings.Join(granted.scopes, " ")
	audience := granted.audience
	metadata := map[string]any{"jti": id, "scope": scope, "expiresAt": at.Add(i.TTL).Truncate(time.Second)}
	if audience == nil {
		audience = i.audience
	} else {
		metadata["resource"] = []string(audience)
	}
	claims, err := Claims{
		Issuer: i.URL, Subject: subject, ClientID: subject, Audience: audience,
		IssuedAt: at.Unix(), NotBefore: at.Unix(), ExpiresAt: at.Add(i.TTL).Unix(),
		ID: id, Scope: scope,
		AgentType: agent.Type, Owner: agent.Owner, DeploymentEnv: agent.DeploymentEnv,
	}.write()
	if err != nil {
		return Token{}, err
	}
	if len(claims) > maxClaimsBytes {
		return Token{}, Refuse(InvalidRequest, "The token would be too long. Request fewer scopes or resources at once.")
	}
	durable := i.Journal.Publish(ctx, i.Events.New(auditevent.TokenIssued, &agent.ID, granted.origin, metadata))
	access, signErr := granted.sign(claims)
	if err := durable(); err != nil {
		return Token{}, err
	}
	if signErr != nil {
		return Token{}, signErr
	}
	return Token{Access: access, ExpiresIn: i.TTL, Scope: scope}, nil
}

// OutcomeSuccess is the outcome of a request that got its token.
const OutcomeSuccess = "success"

// What else agentidp_tokens_issued_total tells of a request; other outcomes are the
// error codes of the kinds of refusal.
const (
	outcomeRateLimited = "rate_limited"
	outcomeOverQuota   = "quota_exceeded"
	outcomeError       = "error"
)

// errOverQuota tells the one refusal of an unauthorized client that more room would have spared it.
var errOverQuota = errors.New("the quota is used up")

func (k Kind) outcome() string {
	if k == TooManyRequests {
		return outcomeRateLimited
	}
	return k.OAuth()
}

// AllOutcomes lists what Outcomes may be told.
func AllOutcomes() []string {
	all := []string{OutcomeSuccess, outcomeError, outcomeOverQuota}
	for kind := InvalidRequest; kind <= Unavailable; kind++ {
		if name := kind.outcome(); !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}

func outcome(err error) string {
	var refusal *Refusal
	switch {
	case err == nil:
		return OutcomeSuccess
	case errors.Is(err, errOverQuota):
		return outcomeOverQuota
	case errors.As(err, &refusal):
		return refusal.Kind.outcome()
	default:
		return outcomeError
	}
}
