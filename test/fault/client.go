package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/test/internal/rig"
)

const (
	userAgent = "agentidp-fault/1"
	// patience is how long a client waits for an answer: less than a freeze takes.
	patience = 5 * time.Second
	mostBody = 1 << 20
)

// request is what is sent; service says to whom.
type request struct {
	service, method, path string
	bearer, key           string // Authorization and Idempotency-Key; "" for none
	body                  any    // url.Values go as a form, nil as nothing, all else as JSON
}

// attempt is one request and what came of it.
type attempt struct {
	request

	id      string // X-Request-ID
	replica string
	reached bool // there was a connection to the replica, so that some of the request may have got there
	resent  bool // there was more than one: the first was cut off, and the transport took another by itself
	status  int  // 0 without an answer
	body    []byte
	err     error
}

func (t attempt) String() string {
	if t.err != nil {
		return fmt.Sprintf("%s %s at %s: %v", t.method, t.path, t.replica, t.err)
	}
	answer := "" // of a success it could hold a secret
	if t.status >= http.StatusBadRequest {
		answer = " " + strings.Join(strings.Fields(string(t.body[:min(len(t.body), 300)])), " ")
	}
	return fmt.Sprintf("%s %s at %s: %d%s", t.method, t.path, t.replica, t.status, answer)
}

// result is what the client knows then.
func (t attempt) result() outcome {
	switch {
	case t.err != nil && !t.reached:
		return refused // nothing was sent
	case t.err != nil || t.status >= http.StatusInternalServerError:
		return unsure
	case t.status < http.StatusMultipleChoices:
		return done
	default:
		return refused
	}
}

// again says whether a client in the field tries once more.
func (t attempt) again() bool { return t.err != nil || t.status >= http.StatusInternalServerError }

// read decodes the answer.
func (t attempt) read(into any) error { return json.Unmarshal(t.body, into) }

// sender sends requests as an ingress passes them on: to any replica, whether that is well or not. It is for one at a time.
type sender struct {
	http     *http.Client
	replicas map[string][]replica // by service
	random   *rand.Rand
	patience time.Duration
	judge    func(attempt) // sees every attempt; nil for nobody
}

type replica struct{ name, address string }

func (s *sender) send(ctx context.Context, r request) attempt {
	t := s.attempt(ctx, r)
	if s.judge != nil {
		s.judge(t)
	}
	return t
}

func (s *sender) attempt(ctx context.Context, r request) attempt {
	all := s.replicas[r.service]
	to := all[s.random.IntN(len(all))]
	t := attempt{request: r, id: uuid.NewString(), replica: to.name}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(s.patience, patience))
	defer cancel()
	body, contentType, err := r.encode()
	if err != nil {
		t.err = err
		return t
	}
	// The error alone does not tell: a request that was cut off on an old connection is sent again by the transport if it
	// may be repeated, and then it is the second attempt that finds nobody listening.
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
		t.reached, t.resent = true, t.reached
	}})
	sent, err := http.NewRequestWithContext(ctx, r.method, "http://"+to.address+r.path, body)
	if err != nil {
		t.err = err
		return t
	}
	sent.Header.Set("X-Request-ID", t.id)
	sent.Header.Set("User-Agent", userAgent)
	for name, value := range map[string]string{
		"Content-Type": contentType, "Idempotency-Key": r.key, "Authorization": r.bearer,
	} {
		if value != "" {
			sent.Header.Set(name, value)
		}
	}
	response, err := s.http.Do(sent)
	if err != nil {
		t.err = err
		return t
	}
	defer func() { _ = response.Body.Close() }()
	t.status = response.StatusCode
	t.replica = cmp.Or(response.Header.Get(rig.ServedBy), t.replica)
	t.body, t.err = io.ReadAll(io.LimitReader(response.Body, mostBody))
	return t
}

func (r request) encode() (io.Reader, string, error) {
	switch body := r.body.(type) {
	case nil:
		return http.NoBody, "", nil
	case url.Values:
		return strings.NewReader(body.Encode()), "application/x-www-form-urlencoded", nil
	default:
		encoded, err := json.Marshal(body)
		return bytes.NewReader(encoded), "application/json", err
	}
}

// claims are what a token says of itself.
type claims struct {
	ID        string `json:"jti"`
	ExpiresAt int64  `json:"exp"`
}

// claimsOf a token, without verifying it.
func claimsOf(token string) (c claims) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return c
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(raw, &c) != nil {
		return claims{}
	}
	return c
}
