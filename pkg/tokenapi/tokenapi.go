// Package tokenapi is the token service's internal API as its callers see it: the wire types that both sides share, and
// the client. It must not decide what a revocation means or cache an answer: that is done in revocation and authn.
package tokenapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/revocation"
)

// The paths of the internal API, relative to peer.Prefix.
const (
	JWKSPath             = "/jwks"
	CheckRevocationsPath = "/revocations/check"
)

// CheckRequest asks whether one token is revoked, be it by its own id or because its agent was cut off.
type CheckRequest struct {
	// TokenID is the token's jti, a UUIDv7.
	TokenID  string    `json:"jti"`
	AgentID  uuid.UUID `json:"sub"`
	IssuedAt time.Time `json:"issuedAt"`
}

// CheckResponse is the answer, from the database and not from a cache.
type CheckResponse struct {
	Revoked bool `json:"revoked"`
}

// Caller sends one JSON request to the token service and decodes its answer; *peer.Client is one.
type Caller interface {
	Do(ctx context.Context, method, path string, in, out any) error
	// Ask is Do for a POST that can do no harm twice, and may be sent twice.
	Ask(ctx context.Context, path string, in, out any) error
}

// Client calls the token service's internal API. It is safe for concurrent use.
type Client struct{ caller Caller }

// NewClient gives a client that sends through caller.
func NewClient(caller Caller) *Client { return &Client{caller: caller} }

// JWKS gives the public signing keys, RFC 7517 §5, as authn.ParseJWKS reads them.
func (c *Client) JWKS(ctx context.Context) ([]byte, error) {
	var set json.RawMessage
	if err := c.caller.Do(ctx, http.MethodGet, JWKSPath, nil, &set); err != nil {
		return nil, err
	}
	return set, nil
}

// Revoked answers as a revocation.Fallback. An error means that nothing is known about the token.
func (c *Client) Revoked(ctx context.Context, q revocation.Query) (bool, error) {
	// A body that lacks the answer must not be read as a false one.
	var res struct {
		Revoked *bool `json:"revoked"`
	}
	if err := c.caller.Ask(ctx, CheckRevocationsPath, CheckRequest(q), &res); err != nil {
		return false, err
	}
	if res.Revoked == nil {
		return false, apperr.Unavailable(errors.New("token service gave no answer about a revocation"))
	}
	return *res.Revoked, nil
}
