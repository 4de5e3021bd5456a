package agentidp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
)

func TestNewRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	good := Config{BaseURL: "https://idp.example.com/base/", ClientID: agentID, ClientSecret: clientSecret}
	client, err := New(good)
	require.NoError(t, err)
	require.Equal(t, "https://idp.example.com/base", client.base)
	for name, change := range map[string]func(c *Config){
		"no base URL":            func(c *Config) { c.BaseURL = "" },
		"a base URL of no host":  func(c *Config) { c.BaseURL = "https://" },
		"another scheme":         func(c *Config) { c.BaseURL = "ftp://idp.example.com" },
		"a user in the base URL": func(c *Config) { c.BaseURL = "https://u:p@idp.example.com" },
		"a query":                func(c *Config) { c.BaseURL = "https://idp.example.com/?x" },
		"a base URL that is none": func(c *Config) {
			c.BaseURL = "https://idp.example.com:port"
		},
		"no id":              func(c *Config) { c.ClientID = "" },
		"no secret":          func(c *Config) { c.ClientSecret = "" },
		"attempts below one": func(c *Config) { c.MaxAttempts = -1 },
		"a negative wait":    func(c *Config) { c.MaxWait = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := good
			change(&cfg)
			_, err := New(cfg)
			require.Error(t, err)
			require.NotContains(t, err.Error(), clientSecret)
		})
	}
}

func TestTokensAreAskedForAsTheStandardSays(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	client, _ := newClient(t, p, func(cfg *Config) {
		cfg.ClientSecret, cfg.Scopes, cfg.UserAgent = "a:b c/ü", []string{"agents:read", "resume:read"}, "screener/1"
	})
	token, err := client.Token(t.Context())
	require.NoError(t, err)
	require.Equal(t, "t1", token.AccessToken)
	require.Equal(t, "Bearer", token.TokenType)
	require.Equal(t, "agents:read", token.Extra("scope"))
	require.True(t, token.Valid())

	asked := p.tokenCalls()[0]
	require.Equal(t, "grant_type=client_credentials&scope=agents%3Aread+resume%3Aread", asked.Body)
	require.Equal(t, "application/x-www-form-urlencoded", asked.Header.Get("Content-Type"))
	require.Equal(t, "screener/1", asked.Header.Get("User-Agent"))
	id, secret, found := (&http.Request{Header: asked.Header}).BasicAuth()
	require.True(t, found)
	require.Equal(t, agentID, id)
	require.Equal(t, "a%3Ab+c%2F%C3%BC", secret, "form-encoded, RFC 6749 section 2.3.1")
}

func TestTokensAreAskedForForEveryResource(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	client, _ := newClient(t, p, func(cfg *Config) { cfg.Resources = []string{"https://a.example/?b=1", "urn:a:b"} })
	_, err := client.Token(t.Context())
	require.NoError(t, err)
	require.Equal(t, "grant_type=client_credentials&resource=https%3A%2F%2Fa.example%2F%3Fb%3D1&resource=urn%3Aa%3Ab", p.tokenCalls()[0].Body)
}

func TestOneTokenServesUntilItIsNearlyOver(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	synctest.Test(t, func(t *testing.T) {
		client, _ := newTimedClient(t, p, nil)
		twenty := func(want string) {
			var callers sync.WaitGroup
			for range 20 {
				callers.Go(func() {
					token, err := client.TokenSource(t.Context()).Token()
					if err != nil || token.AccessToken != want {
						t.Errorf("got %v, %v", token, err)
					}
				})
			}
			callers.Wait()
			synctest.Wait() // until a renewal is over
		}
		twenty("t1")
		require.NoError(t, pause(t.Context(), 53*time.Minute))
		twenty("t1")
		require.Len(t, p.tokenCalls(), 1)
		require.NoError(t, pause(t.Context(), 2*time.Minute))
		token, err := client.Token(t.Context())
		require.NoError(t, err)
		require.Equal(t, "t1", token.AccessToken, "the next one is asked for meanwhile")
		synctest.Wait()
		twenty("t2")
		require.Len(t, p.tokenCalls(), 2)
	})
}

func TestWaitingForATokenEndsWithTheContext(t *testing.T) {
	t.Parallel()
	client, clock := newClient(t, newProvider(t), nil)
	_, _, mine := client.token.at(clock.Now()) // somebody fetches
	require.True(t, mine)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := client.Token(ctx)
	require.ErrorIs(t, err, context.Canceled)
}

func TestATokenThatLivesIsUsedWhileNoNewOneIsToBeHad(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	synctest.Test(t, func(t *testing.T) {
		client, _ := newTimedClient(t, p, func(cfg *Config) { cfg.MaxAttempts = 1 })
		first, err := client.Token(t.Context())
		require.NoError(t, err)
		away := answer{503, nil, `{"error":"temporarily_unavailable","error_description":"No."}`}
		p.tokens = []answer{away, away, away}
		require.NoError(t, pause(t.Context(), 55*time.Minute))
		for range 5 {
			token, err := client.Token(t.Context())
			require.NoError(t, err)
			require.Same(t, first, token)
			synctest.Wait() // until the renewal is over
		}
		require.Len(t, p.tokenCalls(), 2, "a renewal that failed is not tried again with every call")
		require.NoError(t, pause(t.Context(), renewalPause))
		token, err := client.Token(t.Context())
		require.NoError(t, err)
		require.Same(t, first, token)
		synctest.Wait()
		require.Len(t, p.tokenCalls(), 3)

		require.NoError(t, pause(t.Context(), 5*time.Minute))
		_, err = client.Token(t.Context())
		require.Equal(t, CodeTemporarilyUnavailable, CodeOf(err), "it has expired")
		token, err = client.Token(t.Context())
		require.NoError(t, err)
		require.Equal(t, "t2", token.AccessToken)
	})
}

func TestNobodyWaitsForTheNextTokenWhileOneLives(t *testing.T) {
	t.Parallel()
	p := newProvider(t, answer{200, nil, "{}"})
	synctest.Test(t, func(t *testing.T) {
		client, transport, _ := newClientInRenewal(t, p)
		transport.hangs.Store(true)
		begin := time.Now()
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			_, err := client.Agents.Get(ctx, agentID)
			require.NoError(t, err)
			cancel()
			synctest.Wait() // until the renewal got over the end of this call
		}
		require.Zero(t, time.Since(begin))
		require.Len(t, p.tokenCalls(), 2, "one renewal at a time")

		transport.hangs.Store(false) // after the first attempt, which takes as long as the HTTP client lets it
		require.NoError(t, pause(t.Context(), defaultTimeout+lastDelay))
		token, err := client.Token(t.Context())
		require.NoError(t, err)
		require.Equal(t, "t3", token.AccessToken, "t2 was never delivered")
		require.Len(t, p.tokenCalls(), 3)
	})
}

func TestARenewalWaitsAsTheServerAsks(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	synctest.Test(t, func(t *testing.T) {
		client, _, first := newClientInRenewal(t, p)
		p.tokens = []answer{{503, map[string]string{"Retry-After": "2"}, `{"error":"temporarily_unavailable"}`}}
		begin := time.Now()
		token, err := client.Token(t.Context())
		require.NoError(t, err)
		require.Same(t, first, token)
		require.Zero(t, time.Since(begin), "nobody else waits")
		require.NoError(t, pause(t.Context(), 2*time.Second))
		synctest.Wait()
		token, err = client.Token(t.Context())
		require.NoError(t, err)
		require.Equal(t, "t2", token.AccessToken)
	})
}

func TestARenewalIsNotTriedAgainSoonerThanTheServerAsks(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	synctest.Test(t, func(t *testing.T) {
		client, _, _ := newClientInRenewal(t, p)
		p.tokens = []answer{{503, map[string]string{"Retry-After": "120"}, `{"error":"temporarily_unavailable"}`}}
		for _, calls := range []int{2, 2, 3} { // at once, after a minute, after two
			_, err := client.Token(t.Context())
			require.NoError(t, err)
			synctest.Wait()
			require.Len(t, p.tokenCalls(), calls)
			require.NoError(t, pause(t.Context(), time.Minute))
		}
	})
}

func TestWhoCannotWaitForTheNextAttemptIsToldWhyAtOnce(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	synctest.Test(t, func(t *testing.T) {
		client, transport := newTimedClient(t, p, nil)
		p.tokens = []answer{{503, map[string]string{"Retry-After": "20"}, `{"error":"temporarily_unavailable"}`}}
		begin := time.Now()
		for range 2 { // the one who asks, and one who finds it asked for
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			_, err := client.Token(ctx)
			cancel()
			require.Equal(t, CodeTemporarilyUnavailable, CodeOf(err))
			require.Zero(t, time.Since(begin))
		}
		transport.hangs.Store(true) // the next attempt
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		_, err := client.Token(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, CodeTemporarilyUnavailable, CodeOf(err))
		require.Equal(t, 25*time.Second, time.Since(begin))
		require.NoError(t, pause(t.Context(), renewalTimeout))
	})
}

func TestATokenIsNotGivenOutInItsLastMoments(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	synctest.Test(t, func(t *testing.T) {
		client, _ := newTimedClient(t, p, nil)
		first, err := client.Token(t.Context())
		require.NoError(t, err)
		require.NoError(t, pause(t.Context(), time.Until(first.Expiry)-wayMargin))
		token, err := client.Token(t.Context())
		require.NoError(t, err)
		require.Equal(t, "t2", token.AccessToken)
	})
}

func TestARenewalThatHangsEnds(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	synctest.Test(t, func(t *testing.T) {
		client, transport := newTimedClient(t, p, func(cfg *Config) { cfg.HTTPClient.Timeout = 0 })
		transport.hangs.Store(true)
		begin := time.Now()
		_, err := client.Token(t.Context())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, renewalTimeout, time.Since(begin))
		transport.hangs.Store(false)
		_, err = client.Token(t.Context())
		require.NoError(t, err)
	})
}

func TestThoseWhoWaitForATokenShareItsFailure(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	synctest.Test(t, func(t *testing.T) {
		client, clock := newClient(t, p, nil)
		_, under, mine := client.token.at(clock.Now()) // somebody fetches
		require.True(t, mine)
		errs := make(chan error, 20)
		for range cap(errs) {
			go func() {
				_, err := client.Token(t.Context())
				errs <- err
			}()
		}
		synctest.Wait() // until all of them wait
		under.err = errors.New("refused")
		client.token.land(under, clock.Now())
		for range cap(errs) {
			require.Equal(t, under.err, <-errs)
		}
	})
	require.Empty(t, p.tokenCalls())
}

func TestTheShortestPatienceIsNotThatOfAll(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	p.tokens = []answer{{503, map[string]string{"Retry-After": "1"}, `{"error":"temporarily_unavailable"}`}}
	synctest.Test(t, func(t *testing.T) {
		client, _ := newTimedClient(t, p, nil)
		begin := time.Now()
		hasty, left := make(chan error, 1), make(chan error, 20)
		ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
		defer cancel()
		go func() {
			_, err := client.Token(ctx)
			hasty <- err
		}()
		synctest.Wait() // until the first answer is there
		for range cap(left) {
			go func() {
				_, err := client.Token(t.Context())
				left <- err
			}()
		}
		require.Equal(t, CodeTemporarilyUnavailable, CodeOf(<-hasty))
		require.Zero(t, time.Since(begin))
		for range cap(left) {
			require.NoError(t, <-left)
		}
		require.Equal(t, time.Second, time.Since(begin))
	})
	require.Len(t, p.tokenCalls(), 2)
}

func TestTokenErrorsAreTyped(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	p.tokens = []answer{{401, nil, `{"error":"invalid_client","error_description":"Client authentication failed."}`}}
	client, clock := newClient(t, p, nil)
	_, err := client.Agents.Get(t.Context(), agentID)
	var refused *OAuthError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, &OAuthError{Status: 401, Code: CodeInvalidClient, Description: "Client authentication failed.", RequestID: "request-1"}, refused)
	require.Equal(t, CodeInvalidClient, CodeOf(err))
	require.EqualError(t, err, "agentidp: 401 invalid_client: Client authentication failed. (request request-1)")
	require.NotContains(t, err.Error(), clientSecret)
	require.Empty(t, clock.paused, "a wrong secret does not get right by asking again")
}

func TestATokenEndpointThatAnswersNonsenseIsAnError(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		`{}`, `{"access_token":"x","token_type":"mac","expires_in":1}`, `{"access_token":"x","token_type":"Bearer","expires_in":0}`, `<html>`,
	} {
		p := newProvider(t)
		p.tokens = []answer{{200, nil, body}}
		client, clock := newClient(t, p, nil)
		_, err := client.Token(t.Context())
		require.Error(t, err, body)
		require.Empty(t, clock.paused)
		_, err = client.Token(t.Context())
		require.NoError(t, err, "it was not kept")
	}
}

func TestATokenThatTheServerNoLongerTakesIsReplacedOnce(t *testing.T) {
	t.Parallel()
	p := newProvider(t, failure(401, "UNAUTHORIZED"), answer{204, nil, ""}, failure(401, "UNAUTHORIZED"))
	client, _ := newClient(t, p, nil)

	require.NoError(t, client.Agents.Decommission(t.Context(), agentID))

	calls := p.calls()
	require.Len(t, calls, 2)
	require.Equal(t, "Bearer t1", calls[0].Authorization)
	require.Equal(t, "Bearer t2", calls[1].Authorization)

	err := client.Agents.Decommission(t.Context(), agentID)
	require.Equal(t, CodeUnauthorized, CodeOf(err))
	require.Len(t, p.calls(), 4, "a server that takes no token is not asked for ever")
}

// revoked is what introspection and revocation answer to a bearer token that was revoked: both forms at once.
func revoked() answer {
	const text = "The bearer token is missing, malformed, expired, revoked or not valid here."
	return answer{401, nil, `{"error":"invalid_token","error_description":"` + text + `","code":"UNAUTHORIZED","message":"` + text + `"}`}
}

func TestATokenIsReplacedWhereverTheServerRefusesIt(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(ctx context.Context, c *Client) error{
		"introspection": func(ctx context.Context, c *Client) error { _, err := c.Introspect(ctx, "x"); return err },
		"revocation":    func(ctx context.Context, c *Client) error { return c.Revoke(ctx, "x") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProvider(t, revoked(), answer{200, nil, "{}"}, revoked())
			client, clock := newClient(t, p, nil)
			require.NoError(t, call(t.Context(), client))
			calls := p.calls()
			require.Len(t, calls, 2)
			require.Equal(t, "Bearer t1", calls[0].Authorization)
			require.Equal(t, "Bearer t2", calls[1].Authorization)

			require.Equal(t, Code("invalid_token"), CodeOf(call(t.Context(), client)))
			require.Len(t, p.calls(), 4, "a server that takes no token is not asked for ever")
			require.Empty(t, clock.paused)
		})
	}
}

func TestASecretThatTheServerRefusesIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	p := newProvider(t, revoked())
	client, _ := newClient(t, p, nil)
	_, err := client.Token(t.Context())
	require.NoError(t, err)
	p.tokens = []answer{{401, nil, `{"error":"invalid_client","error_description":"Client authentication failed."}`}}
	_, err = client.Introspect(t.Context(), "x")
	require.Equal(t, CodeInvalidClient, CodeOf(err))
	require.Len(t, p.tokenCalls(), 2)
	require.Len(t, p.calls(), 1)
}

func TestARefusedTokenIsNotReplacedTwice(t *testing.T) {
	t.Parallel()
	client, _ := newClient(t, newProvider(t), nil)
	old, err := client.Token(t.Context())
	require.NoError(t, err)
	client.token.drop(old)
	fresh, err := client.Token(t.Context())
	require.NoError(t, err)
	client.token.drop(old) // a slower caller that was refused too
	again, err := client.Token(t.Context())
	require.NoError(t, err)
	require.Same(t, fresh, again)
}

func TestWhatMayBeRepeatedIsRepeated(t *testing.T) {
	t.Parallel()
	get := func(ctx context.Context, c *Client) error { _, err := c.Agents.Get(ctx, agentID); return err }
	register := func(ctx context.Context, c *Client) error {
		_, err := c.Agents.Register(ctx, Registration{})
		return err
	}
	update := func(ctx context.Context, c *Client) error {
		_, err := c.Agents.Update(ctx, agentID, AgentUpdate{})
		return err
	}
	generate := func(ctx context.Context, c *Client) error {
		_, err := c.Credentials.Generate(ctx, agentID, time.Time{})
		return err
	}
	rotate := func(ctx context.Context, c *Client) error {
		_, err := c.Credentials.Rotate(ctx, agentID, credentialID, 0)
		return err
	}
	setKeys := func(etag string) func(context.Context, *Client) error {
		return func(ctx context.Context, c *Client) error {
			_, err := c.Agents.SetKeys(ctx, agentID, AgentKeys{IfMatch: etag})
			return err
		}
	}
	decommission := func(ctx context.Context, c *Client) error { return c.Agents.Decommission(ctx, agentID) }
	revoke := func(ctx context.Context, c *Client) error { return c.Revoke(ctx, "t") }
	introspect := func(ctx context.Context, c *Client) error { _, err := c.Introspect(ctx, "t"); return err }
	away, limit := failure(503, "SERVICE_UNAVAILABLE"), failureAfter(429, "RATE_LIMIT_EXCEEDED", "7")
	tests := map[string]struct {
		call  func(ctx context.Context, c *Client) error
		first answer
		times int
	}{
		"a read while the server is away":                    {get, away, 2},
		"a read behind a proxy that times out":               {get, answer{504, nil, "<html>"}, 2},
		"a registration, for it has an idempotency key":      {register, away, 2},
		"an introspection":                                   {introspect, away, 2},
		"a revocation of a token, which is idempotent":       {revoke, away, 2},
		"new keys, which are the same the second time":       {setKeys(""), away, 2},
		"no new keys on a condition, which may have changed": {setKeys(`"2"`), away, 1},
		"no change, which may have happened":                 {update, away, 1},
		"no decommissioning, which would be a conflict then": {decommission, away, 1},
		"no new credential, which may have been made":        {generate, away, 1},
		"no rotation, which would end the first one":         {rotate, away, 1},
		"a change over the limit, which did not happen":      {update, limit, 2},
		"a rotation over the limit, which did not happen":    {rotate, limit, 2},
		"no internal error":                                  {get, failure(500, "INTERNAL_SERVER_ERROR"), 1},
		"nothing that is the caller's fault":                 {get, failure(404, "AGENT_NOT_FOUND"), 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProvider(t, test.first, answer{200, nil, "{}"})
			client, clock := newClient(t, p, nil)
			err := test.call(t.Context(), client)
			calls := p.calls()
			require.Len(t, calls, test.times)
			if test.times == 1 {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, calls[0].Body, calls[1].Body)
			require.Equal(t, calls[0].Header.Get("Idempotency-Key"), calls[1].Header.Get("Idempotency-Key"))
			wait := firstDelay
			if test.first.status == 429 {
				wait = 7 * time.Second
			}
			require.Equal(t, []time.Duration{wait}, clock.paused)
		})
	}
}

func TestTokenRequestsAreRepeatedToo(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	p.tokens = []answer{{503, map[string]string{"Retry-After": "2"}, `{"error":"temporarily_unavailable"}`}}
	client, clock := newClient(t, p, nil)
	_, err := client.Token(t.Context())
	require.NoError(t, err)
	require.Equal(t, []time.Duration{2 * time.Second}, clock.paused)
}

func TestRepetitionsEnd(t *testing.T) {
	t.Parallel()
	away := failure(503, "SERVICE_UNAVAILABLE")

	p := newProvider(t, away)
	client, clock := newClient(t, p, nil)
	_, err := client.Agents.Get(t.Context(), agentID)
	require.Equal(t, CodeServiceUnavailable, CodeOf(err))
	require.Equal(t, []time.Duration{200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond}, clock.paused)
	require.Len(t, p.calls(), 4)

	p = newProvider(t, away)
	client, _ = newClient(t, p, func(cfg *Config) { cfg.MaxAttempts = 1 })
	_, err = client.Agents.Get(t.Context(), agentID)
	require.Error(t, err)
	require.Len(t, p.calls(), 1)

	p = newProvider(t, failureAfter(429, "RATE_LIMIT_EXCEEDED", "31"))
	client, clock = newClient(t, p, nil)
	_, err = client.Agents.Get(t.Context(), agentID)
	var refused *Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, 31*time.Second, refused.RetryAfter, "for the caller to decide")
	require.Empty(t, clock.paused, "longer than MaxWait")

	p = newProvider(t, failureAfter(429, "RATE_LIMIT_EXCEEDED", "20"))
	client, clock = newClient(t, p, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = client.Agents.Get(ctx, agentID)
	require.Equal(t, CodeRateLimitExceeded, CodeOf(err))
	require.Empty(t, clock.paused, "the deadline would be over by then")
}

func TestTheDelayHasABound(t *testing.T) {
	t.Parallel()
	client, _ := newClient(t, newProvider(t), nil)
	wait, may := client.wait(t.Context(), 60, errors.New("away"))
	require.True(t, may)
	require.Equal(t, lastDelay, wait)
}

// broken is a transport that fails a number of times.
type broken struct {
	next     http.RoundTripper
	failures int
	err      error
	calls    int
}

func (b *broken) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Path, "/token") {
		return b.next.RoundTrip(r)
	}
	if b.calls++; b.calls <= b.failures {
		return nil, b.err
	}
	return b.next.RoundTrip(r)
}

func TestALostConnectionIsTriedAgainForWhatMayBeRepeated(t *testing.T) {
	t.Parallel()
	reset := errors.New("connection reset by peer")
	p := newProvider(t, answer{200, nil, "{}"})
	lost := &broken{next: p.Client().Transport, failures: 2, err: reset}
	client, _ := newClient(t, p, func(cfg *Config) { cfg.HTTPClient.Transport = lost })

	_, err := client.Agents.Get(t.Context(), agentID)
	require.NoError(t, err)
	require.Equal(t, 3, lost.calls)

	lost.calls = 0
	_, err = client.Agents.Update(t.Context(), agentID, AgentUpdate{})
	require.ErrorIs(t, err, reset)
	require.Equal(t, 1, lost.calls, "the change may have happened")
}

func TestAServerThatCannotBeReachedIsTriedAgainForEverything(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	client, clock := newClient(t, p, nil)
	_, err := client.Token(t.Context())
	require.NoError(t, err)
	p.Close()
	require.Error(t, client.Agents.Decommission(t.Context(), agentID))
	require.Len(t, clock.paused, 3)
}

func TestACallEndsWithItsContext(t *testing.T) {
	t.Parallel()
	p := newProvider(t, failure(503, "SERVICE_UNAVAILABLE"))
	client, _ := newClient(t, p, nil)
	ctx, cancel := context.WithCancel(t.Context())
	client.pause = func(ctx context.Context, d time.Duration) error { cancel(); return pause(ctx, d) }
	_, err := client.Agents.Get(ctx, agentID)
	require.Equal(t, CodeServiceUnavailable, CodeOf(err), "what was wrong, not that the caller lost patience")
	require.Len(t, p.calls(), 1)
	require.NoError(t, pause(t.Context(), time.Nanosecond))
}

func TestAnAnswerThatIsNoJSONIsNotAskedForAgain(t *testing.T) {
	t.Parallel()
	p := newProvider(t, answer{200, nil, "<html>"})
	client, clock := newClient(t, p, nil)
	_, err := client.Agents.Get(t.Context(), agentID)
	require.ErrorContains(t, err, "is not what it should be")
	require.Empty(t, clock.paused)
	require.Empty(t, CodeOf(err))
}

func TestErrorsCarryWhatTheServerSaid(t *testing.T) {
	t.Parallel()
	p := newProvider(t, answer{400, nil, `{"code":"VALIDATION_ERROR","message":"The request is not valid.",
		"details":{"errors":[{"field":"email","reason":"is no address"},{"field":"owner","reason":"is missing"},"?"]}}`})
	client, _ := newClient(t, p, nil)
	_, err := client.Agents.Register(t.Context(), Registration{})
	var refused *Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, 400, refused.Status)
	require.Equal(t, CodeValidation, refused.Code)
	require.Equal(t, "request-1", refused.RequestID)
	require.Equal(t, []FieldError{{"email", "is no address"}, {"owner", "is missing"}}, refused.Fields())
	require.EqualError(t, err, "agentidp: 400 VALIDATION_ERROR: The request is not valid.; email: is no address; owner: is missing (request request-1)")

	p = newProvider(t, answer{403, nil, `{"code":"FORBIDDEN","message":"No.","details":{"reason":"needs agents:write"}}`})
	client, _ = newClient(t, p, nil)
	_, err = client.Agents.Get(t.Context(), agentID)
	require.EqualError(t, err, "agentidp: 403 FORBIDDEN: No. needs agents:write (request request-1)")

	p = newProvider(t, answer{413, map[string]string{"X-Request-ID": ""}, "<html>nginx</html>"})
	client, _ = newClient(t, p, nil)
	_, err = client.Agents.Get(t.Context(), agentID)
	require.EqualError(t, err, "agentidp: 413 : Request Entity Too Large")
	require.ErrorAs(t, err, &refused)
	require.Empty(t, refused.Fields())
}

func TestRetryAfterIsSecondsOrADate(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "30": 30 * time.Second, "-1": 0, "soon": 0, "99999999999999999999": 0,
		"Sun, 22 Nov 2026 12:01:00 GMT": time.Minute, "Sun, 22 Nov 2026 11:00:00 GMT": 0,
	} {
		require.Equal(t, want, retryAfter(value, now), value)
	}
}

func TestASecretDoesNotShow(t *testing.T) {
	t.Parallel()
	issued := IssuedCredential{Credential: Credential{ID: credentialID}, Secret: clientSecret}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("made", "issued", issued, "secret", issued.Secret)
	slog.New(slog.NewTextHandler(&log, nil)).Info("made", "issued", issued, "secret", issued.Secret)
	shown := log.String() + fmt.Sprintf("%v %+v %#v %s %q", issued, issued, issued, issued.Secret, issued.Secret)
	require.Contains(t, shown, redacted)
	require.NotContains(t, shown, clientSecret)
	require.Equal(t, clientSecret, issued.Secret.Reveal())
}

func TestHTTPClientAddsTheToken(t *testing.T) {
	t.Parallel()
	p := newProvider(t, answer{200, nil, "{}"})
	client, _ := newClient(t, p, nil)
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, p.Client())
	for _, lent := range []*http.Client{client.HTTPClient(ctx), oauth2.NewClient(ctx, client.TokenSource(ctx))} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.URL+"/resumes/7", http.NoBody)
		require.NoError(t, err)
		response, err := lent.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
	}
	require.Len(t, p.calls(), 2)
	for _, call := range p.calls() {
		require.Equal(t, "Bearer t1", call.Authorization)
	}
}

func TestHTTPClientFollowsNoRedirectToAnotherHost(t *testing.T) {
	t.Parallel()
	other := newProvider(t, answer{200, nil, "{}"})
	p := newProvider(t)
	for name, target := range map[string]string{
		"another port":   other.URL + "/resumes/7",
		"another name":   strings.Replace(p.URL, "127.0.0.1", "localhost", 1) + "/resumes/7",
		"another scheme": strings.Replace(p.URL, "http:", "https:", 1) + "/resumes/7",
	} {
		p.answers = []answer{{302, map[string]string{"Location": target}, ""}}
		client, _ := newClient(t, p, nil)
		before := len(p.calls())
		response, err := client.HTTPClient(t.Context()).Get(p.URL + "/resumes/7")
		require.NoError(t, err, name)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusFound, response.StatusCode, name)
		require.Equal(t, target, response.Header.Get("Location"))
		require.Len(t, p.calls(), before+1, name)
	}
	require.Empty(t, other.calls())
}

func TestHTTPClientFollowsRedirectsOfOneHostAsItsOwnerSays(t *testing.T) {
	t.Parallel()
	round := answer{302, map[string]string{"Location": "/resumes/7"}, ""}
	get := func(p *provider, change func(cfg *Config)) error {
		client, _ := newClient(t, p, change)
		response, err := client.HTTPClient(t.Context()).Get(p.URL + "/resumes/7")
		if response != nil {
			require.NoError(t, response.Body.Close())
		}
		return err
	}
	p := newProvider(t, round, answer{200, nil, "{}"})
	require.NoError(t, get(p, nil))
	require.Len(t, p.calls(), 2)
	require.Equal(t, "Bearer t1", p.calls()[1].Authorization)

	p = newProvider(t, round)
	require.ErrorContains(t, get(p, nil), "stopped after 10 redirects")
	require.Len(t, p.calls(), 10)

	own := errors.New("no further")
	p = newProvider(t, round)
	err := get(p, func(cfg *Config) {
		cfg.HTTPClient.CheckRedirect = func(*http.Request, []*http.Request) error { return own }
	})
	require.ErrorIs(t, err, own)
	require.Len(t, p.calls(), 1)
}
