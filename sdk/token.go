package agentidp

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
)

const (
	// renewalPause is how long a token that could not be renewed early is used before
	// that is tried again, if the server does not ask for longer.
	renewalPause = 10 * time.Second
	// wayMargin is how long before it expires a token is not given out any more: it has
	// a way to go, and other clocks to meet.
	wayMargin = 10 * time.Second
	// renewalTimeout bounds a request for a token, repetitions and pauses included:
	// no caller's context does.
	renewalTimeout = 5 * time.Minute
)

// Token returns an access token of the agent: the one at hand until shortly before it expires.
// From nine tenths of its life on, the next one is asked for meanwhile. Without one
// at hand, any number of callers at once wait for one request and share its failure;
// each waits as long as its ctx lives, and not at all for an attempt after its deadline:
// the error is that of the last one then, and its RetryAfter counts from that. The
// request goes on for up to 5 minutes.
func (c *Client) Token(ctx context.Context) (*oauth2.Token, error) {
	token, under, mine := c.token.at(c.clock())
	if mine {
		go c.renew(context.WithoutCancel(ctx), under)
	}
	if token != nil {
		return token, nil
	}
	return under.wait(ctx)
}

// renew makes the request that others may wait for.
func (c *Client) renew(ctx context.Context, under *renewal) {
	ctx, cancel := context.WithTimeout(ctx, renewalTimeout)
	defer cancel()
	under.token, under.err = c.fetchToken(ctx, under.setback)
	c.token.land(under, c.clock())
}

// TokenSource lends the agent's tokens to golang.org/x/oauth2. Who asks it for one
// waits as with [Client.Token]. A client that oauth2 makes of it gives the token to the
// hosts of redirects as well; that of [Client.HTTPClient] does not.
func (c *Client) TokenSource(ctx context.Context) oauth2.TokenSource {
	return tokenSource{ctx: ctx, client: c}
}

type tokenSource struct {
	ctx    context.Context //nolint:containedctx // oauth2.TokenSource has no other place for it
	client *Client
}

func (s tokenSource) Token() (*oauth2.Token, error) { return s.client.Token(s.ctx) }

func (c *Client) fetchToken(ctx context.Context, setback func(error, time.Time)) (*oauth2.Token, error) {
	form := url.Values{"grant_type": {"client_credentials"}}
	if len(c.cfg.Scopes) > 0 {
		form.Set("scope", strings.Join(c.cfg.Scopes, " "))
	}
	if len(c.cfg.Resources) > 0 {
		form["resource"] = c.cfg.Resources
	}
	var answer struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		ExpiresIn   int64  `json:"expires_in"`
		Scope       string `json:"scope"`
	}
	asked := c.clock()
	_, err := c.attempt(ctx, call{
		method: http.MethodPost, path: "/api/v1/token", form: form, out: &answer,
		repeatable: true, // a token that got lost on its way is of no use to anybody
		setback:    setback,
	}, c.basic())
	switch {
	case err != nil:
		return nil, err
	case answer.AccessToken == "" || !strings.EqualFold(answer.TokenType, "Bearer") || answer.ExpiresIn <= 0:
		return nil, errors.New("agentidp: the token endpoint answered without a bearer token that lives")
	}
	token := &oauth2.Token{
		AccessToken: answer.AccessToken,
		TokenType:   "Bearer",
		ExpiresIn:   answer.ExpiresIn,
		Expiry:      asked.Add(time.Duration(answer.ExpiresIn) * time.Second),
	}
	return token.WithExtra(map[string]any{"scope": answer.Scope}), nil
}

// basic is client_secret_basic: id and secret form-encoded (RFC 6749 section 2.3.1).
func (c *Client) basic() string {
	pair := url.QueryEscape(c.cfg.ClientID) + ":" + url.QueryEscape(c.cfg.ClientSecret.Reveal())
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(pair))
}

// Introspection is what the provider says about a token (RFC 7662). Of a token
// that is not active it says nothing else.
type Introspection struct {
	Active        bool
	Scopes        []string
	ClientID      string
	Subject       string
	Audience      []string
	Issuer        string
	TokenID       string // jti
	TokenType     string
	AgentType     string
	Owner         string
	DeploymentEnv string
	IssuedAt      time.Time
	NotBefore     time.Time
	ExpiresAt     time.Time
}

// Introspect asks whether a token is live, and whose it is. It needs tokens:read.
func (c *Client) Introspect(ctx context.Context, token string) (Introspection, error) {
	var answer struct {
		Active        bool     `json:"active"`
		Scope         string   `json:"scope"`
		ClientID      string   `json:"client_id"`
		Subject       string   `json:"sub"`
		Audience      audience `json:"aud"`
		Issuer        string   `json:"iss"`
		TokenID       string   `json:"jti"`
		TokenType     string   `json:"token_type"`
		AgentType     string   `json:"agent_type"`
		Owner         string   `json:"owner"`
		DeploymentEnv string   `json:"deployment_env"`
		IssuedAt      epoch    `json:"iat"`
		NotBefore     epoch    `json:"nbf"`
		ExpiresAt     epoch    `json:"exp"`
	}
	_, err := c.do(ctx, call{
		method: http.MethodPost, path: "/api/v1/token/introspect", form: url.Values{"token": {token}},
		repeatable: true, out: &answer,
	})
	if err != nil {
		return Introspection{}, err
	}
	return Introspection{
		Active: answer.Active, Scopes: strings.Fields(answer.Scope), ClientID: answer.ClientID, Subject: answer.Subject,
		Audience: answer.Audience, Issuer: answer.Issuer, TokenID: answer.TokenID, TokenType: answer.TokenType,
		AgentType: answer.AgentType, Owner: answer.Owner, DeploymentEnv: answer.DeploymentEnv,
		IssuedAt: answer.IssuedAt.time(), NotBefore: answer.NotBefore.time(), ExpiresAt: answer.ExpiresAt.time(),
	}, nil
}

// Revoke makes a token invalid everywhere (RFC 7009). A token that is unknown or
// has expired is no error; one of another agent needs agents:admin.
func (c *Client) Revoke(ctx context.Context, token string) error {
	_, err := c.do(ctx, call{
		method: http.MethodPost, path: "/api/v1/token/revoke", form: url.Values{"token": {token}}, repeatable: true,
	})
	return err
}

// audience is one string or a list of them (RFC 7519 section 4.1.3).
type audience []string

func (a *audience) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

// epoch is a number of seconds since 1970.
type epoch int64

func (e epoch) time() time.Time {
	if e == 0 {
		return time.Time{}
	}
	return time.Unix(int64(e), 0).UTC()
}

// renewal is one request for a token.
type renewal struct {
	done  chan struct{}
	token *oauth2.Token // set before done is closed, as err is
	err   error

	mu       sync.Mutex
	failed   error         // the last attempt, nil if none failed
	next     time.Time     // when the attempt after that is
	attempts chan struct{} // closed when another one fails
}

func newRenewal() *renewal {
	return &renewal{done: make(chan struct{}), attempts: make(chan struct{})}
}

func (r *renewal) setback(err error, next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed, r.next = err, next
	close(r.attempts)
	r.attempts = make(chan struct{})
}

func (r *renewal) lately() (next time.Time, attempts <-chan struct{}, failed error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next, r.attempts, r.failed
}

// wait gives the token as soon as it is there. It waits no longer than ctx lives, and
// not at all for an attempt after its deadline; what went wrong is in the error.
func (r *renewal) wait(ctx context.Context) (*oauth2.Token, error) {
	for {
		next, attempts, failed := r.lately()
		if deadline, ok := ctx.Deadline(); ok && failed != nil && next.After(deadline) {
			return nil, failed
		}
		select {
		case <-r.done:
			return r.token, r.err
		case <-attempts:
		case <-ctx.Done():
			if failed != nil {
				return nil, fmt.Errorf("agentidp: wait for a token: %w; the last attempt: %w", ctx.Err(), failed)
			}
			return nil, fmt.Errorf("agentidp: wait for a token: %w", ctx.Err())
		}
	}
}

// tokenCache keeps the token at hand.
type tokenCache struct {
	mu      sync.Mutex
	token   *oauth2.Token
	renewAt time.Time
	goodTo  time.Time // shortly before it expires
	under   *renewal  // nil while no request for a token is under way
}

// at gives the token at hand, nil if there is none that lives, and the request for
// the next one if it is time for that; mine tells that the caller has to start it.
func (t *tokenCache) at(now time.Time) (token *oauth2.Token, under *renewal, mine bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token != nil && now.Before(t.goodTo) {
		token = t.token
	}
	if token != nil && now.Before(t.renewAt) {
		return token, nil, false
	}
	if t.under != nil {
		return token, t.under, false
	}
	t.under = newRenewal()
	return token, t.under, true
}

// land ends a request for a token, and keeps what it brought.
func (t *tokenCache) land(under *renewal, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if under.err == nil {
		lifetime := under.token.Expiry.Sub(now)
		t.token, t.renewAt = under.token, under.token.Expiry.Add(-lifetime/10)
		t.goodTo = under.token.Expiry.Add(-min(wayMargin, lifetime/20))
	} else {
		t.renewAt = now.Add(max(renewalPause, retryAfterOf(under.err)))
	}
	t.under = nil
	close(under.done)
}

// drop forgets a token that the server refused, unless somebody else has already
// replaced it.
func (t *tokenCache) drop(token *oauth2.Token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token == token {
		t.token = nil
	}
}
