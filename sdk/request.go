package agentidp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	// maxBody bounds what is read of an answer, in bytes.
	maxBody    = 16 << 20
	firstDelay = 200 * time.Millisecond
	lastDelay  = 5 * time.Second
)

// call is one request and what is to become of its answer.
type call struct {
	method string
	path   string // below the base URL
	query  url.Values
	header http.Header
	json   any        // body, if not nil
	form   url.Values // body, if not nil
	// repeatable says that to execute the request twice does no harm, and that
	// the second answer says the same.
	repeatable bool
	out        any // the answer's JSON, if not nil
	// setback is told of a failure, if not nil, and when the next attempt is.
	setback func(err error, next time.Time)
}

// do makes a call with the agent's token and returns the header of the answer.
// Where the server does not take the token (the agent was suspended meanwhile, or
// the token revoked), it tries once with a new one: the call was not executed.
func (c *Client) do(ctx context.Context, r call) (http.Header, error) {
	token, err := c.Token(ctx)
	if err != nil {
		return nil, err
	}
	header, err := c.attempt(ctx, r, "Bearer "+token.AccessToken)
	if statusOf(err) != http.StatusUnauthorized {
		return header, err
	}
	c.token.drop(token)
	token, fresh := c.Token(ctx)
	if fresh != nil {
		return nil, fresh
	}
	return c.attempt(ctx, r, "Bearer "+token.AccessToken)
}

// attempt makes a call, again where that is allowed and may help.
func (c *Client) attempt(ctx context.Context, r call, authorization string) (http.Header, error) {
	for attempts := 1; ; attempts++ {
		header, err := c.send(ctx, r, authorization)
		if err == nil || ctx.Err() != nil || attempts >= c.cfg.MaxAttempts || !mayRepeat(r, err) {
			return header, err
		}
		wait, ok := c.wait(ctx, attempts, err)
		if !ok {
			return header, err
		}
		if r.setback != nil {
			r.setback(err, c.clock().Add(wait))
		}
		if c.pause(ctx, wait) != nil {
			return header, err // the failure says more than that ctx ended
		}
	}
}

// mayRepeat tells whether the call can be made again. One that changes something
// is, only where it surely was not executed: the server was over its limit, or
// never reached.
func mayRepeat(r call, err error) bool {
	switch status := statusOf(err); status {
	case 0:
		var dial *net.OpError
		unreached := errors.As(err, &dial) && dial.Op == "dial"
		var answer *answerError
		return unreached || r.repeatable && !errors.As(err, &answer)
	case http.StatusTooManyRequests:
		return true
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return r.repeatable
	default:
		return false
	}
}

// wait is how long to wait before the next attempt: what the server asked for, or
// a delay that doubles. It is not worth it past MaxWait or the deadline of ctx.
func (c *Client) wait(ctx context.Context, attempts int, err error) (time.Duration, bool) {
	delay := min(firstDelay<<min(attempts-1, 10), lastDelay)
	delay = delay/2 + time.Duration(c.jitter()*float64(delay/2))
	if asked := retryAfterOf(err); asked > 0 {
		delay = asked
	}
	if deadline, ok := ctx.Deadline(); ok && c.clock().Add(delay).After(deadline) {
		return 0, false
	}
	return delay, delay <= c.cfg.MaxWait
}

// send makes one request.
func (c *Client) send(ctx context.Context, r call, authorization string) (http.Header, error) {
	request, err := c.build(ctx, r)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", authorization)
	response, err := c.cfg.HTTPClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("agentidp: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("agentidp: read the answer of %s %s: %w", r.method, r.path, err)
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return response.Header, c.refusal(response, body)
	}
	if r.out == nil {
		return response.Header, nil
	}
	if err := json.Unmarshal(body, r.out); err != nil {
		return nil, &answerError{fmt.Errorf("agentidp: the answer of %s %s is not what it should be: %w", r.method, r.path, err)}
	}
	return response.Header, nil
}

func (c *Client) build(ctx context.Context, r call) (*http.Request, error) {
	var body io.Reader = http.NoBody
	contentType := ""
	switch {
	case r.form != nil:
		body, contentType = bytes.NewReader([]byte(r.form.Encode())), "application/x-www-form-urlencoded"
	case r.json != nil:
		encoded, err := json.Marshal(r.json)
		if err != nil {
			return nil, fmt.Errorf("agentidp: encode the request: %w", err)
		}
		body, contentType = bytes.NewReader(encoded), "application/json"
	}
	target := c.base + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, fmt.Errorf("agentidp: %w", err)
	}
	for name, values := range r.header {
		request.Header[name] = values
	}
	request.Header.Set("Accept", "application/json")
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	if c.cfg.UserAgent != "" {
		request.Header.Set("User-Agent", c.cfg.UserAgent)
	}
	return request, nil
}

// answerError is a success that cannot be read: to ask again would change nothing.
type answerError struct{ error }

func (e *answerError) Unwrap() error { return e.error }

// retryAfter reads Retry-After, in seconds or as a date (RFC 9110 section 10.2.3);
// 0 if there is none.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
