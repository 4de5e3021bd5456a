package vault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/idle"
)

const (
	// leastAge is how old a token has to be before another is asked for because Vault refused it: what the policy forbids
	// must not become a login each time.
	leastAge = time.Second
	// again is the pause after a login or renewal that failed, and shortest the least after one that did not.
	again    = 2 * time.Second
	shortest = 500 * time.Millisecond
	// forever stands for the time of a token that has no end; it is looked at again after half of this.
	forever = 2 * time.Hour
)

// token is one that Vault gave, and when.
type token struct {
	value config.Secret
	at    time.Time
}

// current is the token to use: another than the one that was refused, if that can be had.
func (c *Client) current(ctx context.Context, refused token) (token, error) {
	if now := *c.token.Load(); c.usable(now, refused) {
		return now, nil
	}
	if err := c.lock(ctx); err != nil {
		return token{}, err
	}
	defer c.unlock()
	if now := *c.token.Load(); c.usable(now, refused) {
		return now, nil // somebody logged in meanwhile
	}
	_, err := c.login(ctx)
	return *c.token.Load(), err
}

// usable says of the token there is that another login would be of no use.
func (c *Client) usable(now, refused token) bool {
	return c.cfg.KubernetesRole == "" || now.value != "" && (now != refused || time.Since(refused.at) < leastAge)
}

func (c *Client) lock(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Client) unlock() { <-c.turn }

// lease is what Vault says of a token that it gave or renewed.
type lease struct {
	Auth struct {
		Token     config.Secret `json:"client_token"`
		Seconds   int           `json:"lease_duration"`
		Renewable bool          `json:"renewable"`
	} `json:"auth"`
}

func (l lease) lasts() time.Duration {
	if l.Auth.Seconds == 0 {
		return forever
	}
	return time.Duration(l.Auth.Seconds) * time.Second
}

// login gets a token for the pod's service account. The caller holds the lock.
func (c *Client) login(ctx context.Context) (lease, error) {
	jwt, err := os.ReadFile(c.cfg.KubernetesToken)
	if err != nil {
		return lease{}, fmt.Errorf("VAULT_KUBERNETES_TOKEN_FILE: %w", err)
	}
	in := map[string]string{"role": c.cfg.KubernetesRole, "jwt": strings.TrimSpace(string(jwt))}
	var given lease
	if err := c.send(ctx, request{opLogin, http.MethodPost, "auth/" + c.cfg.KubernetesMount + "/login", in}, "", &given); err != nil {
		return lease{}, err
	}
	if given.Auth.Token == "" {
		return lease{}, errors.New("no token was answered")
	}
	c.token.Store(&token{value: given.Auth.Token, at: time.Now()})
	return given, nil
}

// Run keeps the token good until ctx ends: a service account logs in again, a token that was given is renewed, each when half
// of its time is over.
func (c *Client) Run(ctx context.Context) error {
	keep := c.renew
	if c.cfg.KubernetesRole != "" {
		keep = c.loginAgain
	}
	var outage idle.Outage
	for ctx.Err() == nil {
		lasts, err := keep(ctx)
		if outage.Begins(ctx, err) {
			c.log.WarnContext(ctx, "the token for vault could not be renewed; trying again", slog.Any("error", err))
		}
		pause := max(lasts/2, shortest)
		if err != nil {
			pause = again
		}
		_ = idle.For(ctx, pause)
	}
	return nil
}

// loginAgain tells how long the new token lasts.
func (c *Client) loginAgain(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := c.lock(ctx); err != nil {
		return 0, err
	}
	defer c.unlock()
	given, err := c.login(ctx)
	return given.lasts(), err
}

// renew tells how long the token that was given lasts from now on. One that cannot be renewed ends, and says so
// each time that half of what is left is over.
func (c *Client) renew(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var found struct {
		Data struct {
			Ends      *string `json:"expire_time"`
			Seconds   int     `json:"ttl"`
			Whole     int     `json:"creation_ttl"`
			Renewable bool    `json:"renewable"`
		} `json:"data"`
	}
	err := c.send(ctx, request{opLookup, http.MethodGet, "auth/token/lookup-self", nil}, c.cfg.Token, &found)
	if err != nil || found.Data.Ends == nil {
		return forever, err
	}
	lasts := time.Duration(found.Data.Seconds) * time.Second
	if found.Data.Renewable {
		var given lease
		if err := c.send(ctx, request{opRenew, http.MethodPost, "auth/token/renew-self", nil}, c.cfg.Token, &given); err != nil {
			return 0, err
		}
		lasts = given.lasts()
	}
	if whole := time.Duration(found.Data.Whole) * time.Second; lasts < whole/2 {
		c.log.WarnContext(ctx, "VAULT_TOKEN cannot be renewed any further and will end", slog.Duration("in", lasts))
	}
	return lasts, nil
}
