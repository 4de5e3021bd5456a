package agentidp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

// defaultTimeout bounds one attempt of a request.
const defaultTimeout = 30 * time.Second

// Config says whom to talk to, and as whom.
type Config struct {
	// BaseURL is where the provider is, as in https://idp.example.com.
	BaseURL string
	// ClientID is the id of the agent this program is.
	ClientID string
	// ClientSecret is one of the agent's secrets.
	ClientSecret Secret
	// Scopes are those to ask for; none leaves it to the provider, which then
	// gives agents:read.
	Scopes []string
	// Resources are the absolute URIs of the APIs that tokens are for (RFC 8707), of
	// those that the agent is allowed. None means AgentIdP itself, which takes no
	// token for others: what calls both needs a Client for each.
	Resources []string
	// HTTPClient makes the requests; nil is one with a timeout of 30 s.
	HTTPClient *http.Client
	// UserAgent is the User-Agent of all requests; it appears in the audit trail.
	// Empty is that of Go.
	UserAgent string
	// MaxAttempts bounds how often a request is made that may be repeated, the
	// first time included; 0 means 4, 1 means that nothing is repeated.
	MaxAttempts int
	// MaxWait bounds the pause before a repetition; 0 means 30 s. Where the
	// server asks for a longer one, the request fails at once.
	MaxWait time.Duration
}

// Client is a client of one AgentIdP, as one agent. It is safe for concurrent
// use; one per process is enough.
type Client struct {
	// Agents are the agents the provider knows.
	Agents *Agents
	// Credentials are the secrets agents authenticate with.
	Credentials *Credentials
	// Audit is the record of what happened.
	Audit *Audit

	cfg   Config
	base  string
	token *tokenCache
	clock func() time.Time
	pause func(ctx context.Context, d time.Duration) error
	// jitter spreads the delays of clients that failed together: 0 ≤ x < 1.
	jitter func() float64
}

// New returns a client. It makes no request yet; an error means that cfg cannot
// work.
func New(cfg Config) (*Client, error) {
	base, err := url.Parse(cfg.BaseURL)
	switch {
	case err != nil, base.Scheme != "https" && base.Scheme != "http", base.Host == "",
		base.User != nil, base.RawQuery != "", base.Fragment != "":
		return nil, errors.New("agentidp: BaseURL must be an http or https URL without user, query and fragment")
	case cfg.ClientID == "" || cfg.ClientSecret == "":
		return nil, errors.New("agentidp: ClientID and ClientSecret are required")
	case cfg.MaxAttempts < 0 || cfg.MaxWait < 0:
		return nil, errors.New("agentidp: MaxAttempts and MaxWait must not be negative")
	}
	if cfg.HTTPClient == nil {
		cfg.HTTPClient = &http.Client{Timeout: defaultTimeout}
	}
	if cfg.MaxAttempts == 0 {
		cfg.MaxAttempts = 4
	}
	if cfg.MaxWait == 0 {
		cfg.MaxWait = 30 * time.Second
	}
	c := &Client{
		cfg:    cfg,
		base:   strings.TrimRight(cfg.BaseURL, "/"),
		token:  &tokenCache{},
		clock:  time.Now,
		pause:  pause,
		jitter: rand.Float64,
	}
	c.Agents, c.Credentials, c.Audit = &Agents{c}, &Credentials{c}, &Audit{c}
	return c, nil
}

// HTTPClient returns an HTTP client that adds the agent's access token to every
// request, for APIs that accept it. Requests wait for a token as [Client.Token] does.
// Give it only requests to hosts that may see the token. A redirect to another
// scheme or host is not followed: the answer is the redirect itself. Others are, as
// CheckRedirect of [Config.HTTPClient] says.
func (c *Client) HTTPClient(ctx context.Context) *http.Client {
	return &http.Client{
		Timeout:       c.cfg.HTTPClient.Timeout,
		Transport:     &oauth2.Transport{Source: c.TokenSource(ctx), Base: c.cfg.HTTPClient.Transport},
		CheckRedirect: c.checkRedirect,
	}
}

// maxRedirects is how many net/http follows by itself.
const maxRedirects = 10

// checkRedirect keeps the token from hosts that the caller did not name: the
// transport adds it to every request, those of redirects too.
func (c *Client) checkRedirect(next *http.Request, via []*http.Request) error {
	named := via[0].URL
	switch own := c.cfg.HTTPClient.CheckRedirect; {
	case next.URL.Scheme != named.Scheme || next.URL.Host != named.Host:
		return http.ErrUseLastResponse
	case own != nil:
		return own(next, via)
	case len(via) >= maxRedirects:
		return fmt.Errorf("agentidp: stopped after %d redirects", maxRedirects)
	default:
		return nil
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// path joins the segments of a path below /api/v1. Segments that are not fixed
// are ids; one that could be anything else would ask for another resource.
func path(fixed string, ids ...string) (string, error) {
	for _, id := range ids {
		if !isID(id) {
			return "", fmt.Errorf("agentidp: %q is not an id", id)
		}
		fixed = strings.Replace(fixed, "{}", id, 1)
	}
	return "/api/v1" + fixed, nil
}

// isID tells a UUID in lower case.
func isID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, r := range s {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		hex := '0' <= r && r <= '9' || 'a' <= r && r <= 'f'
		if dash != (r == '-') || !dash && !hex {
			return false
		}
	}
	return true
}
