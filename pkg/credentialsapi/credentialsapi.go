// Package credentialsapi is the credentials service's internal API as its callers see it: the wire types that both sides
// share, and the client. It must never keep, log or put into an error a secret that passes through it.
package credentialsapi

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
)

// The values of VerifyResponse.Reason; it is empty when the secret is valid.
const (
	ReasonInvalidSecret     = "invalid_secret"
	ReasonCredentialExpired = "credential_expired" //nolint:gosec // a word of the protocol, not a secret
)

// The paths of the internal API, relative to peer.Prefix.
const (
	VerifyPath             = "/secrets/verify"
	ScreenPath             = "/secrets/screen"
	UsagePath              = "/usage"
	OperatorCredentialPath = "/operator-credential"
	OperatorRevocationPath = "/operator-credential/revoke"
)

// VerifyRequest asks whether Secret is a good secret of the client. Servers decode it from JSON as it is; only Client can
// write it, because a config.Secret marshals redacted.
type VerifyRequest struct {
	ClientID uuid.UUID     `json:"clientId"`
	Secret   config.Secret `json:"secret"`
}

// VerifyResponse is the answer for a known or an unknown client alike; unknown ones are ReasonInvalidSecret.
type VerifyResponse struct {
	Valid  bool   `json:"valid"`
	Reason string `json:"reason,omitempty"`
	// CredentialID is set when the secret belongs to a credential, valid or expired.
	CredentialID *uuid.UUID `json:"credentialId,omitempty"`
	// Previous tells that the secret was rotated away and is in its grace period.
	Previous bool `json:"previous"`
	// ValidUntil is when this very secret stops being good (expiry or end of grace); nil if nothing is set to end it.
	ValidUntil *time.Time `json:"validUntil,omitempty"`
}

// MaxScreened is how many secrets are screened at once.
const MaxScreened = 500

// ScreenRequest asks about secrets in great numbers, which of them are worth a VerifyRequest.
type ScreenRequest struct {
	Secrets []VerifyRequest `json:"secrets"`
}

// ScreenResponse has one answer for each secret, in their order.
type ScreenResponse struct {
	// Plausible tells that the client has a secret that looks like this one, and that it has not ended. That proves
	// nothing, and costs no hash.
	Plausible []bool `json:"plausible"`
}

// Use says that a credential proved a client's identity.
type Use struct {
	CredentialID uuid.UUID `json:"credentialId"`
	UsedAt       time.Time `json:"usedAt"`
	// Previous tells that it was the rotated secret, in its grace period.
	Previous bool `json:"previous"`
}

// MaxUses is how many uses one UsageRequest may carry.
const MaxUses = 1000

// UsageRequest is a batch of uses, at most MaxUses.
type UsageRequest struct {
	Uses []Use `json:"uses"`
}

// OperatorCredentialRequest asks for a credential for the bootstrap operator, without a bearer token of it.
type OperatorCredentialRequest struct {
	AgentID uuid.UUID `json:"agentId"`
	// CredentialID is the id to take, unless it is zero: of the same id nothing is created a second time. Who got no answer
	// can ask again, and revoke what came of it.
	CredentialID uuid.UUID `json:"credentialId,omitzero"`
	// OnlyIfNone creates nothing when the agent has an active credential already.
	OnlyIfNone bool `json:"onlyIfNone"`
}

// OperatorCredential is a new credential with its secret (status 201), or Exists alone (status 200).
type OperatorCredential struct {
	Exists       bool          `json:"exists"`
	CredentialID uuid.UUID     `json:"credentialId"`
	ClientID     uuid.UUID     `json:"clientId"`
	ClientSecret config.Secret `json:"clientSecret"`
	CreatedAt    time.Time     `json:"createdAt"`
}

// OperatorCredentialWire is OperatorCredential as a server writes it: with the secret in the clear. It must go nowhere but
// into that response.
type OperatorCredentialWire struct {
	Exists       bool       `json:"exists"`
	CredentialID *uuid.UUID `json:"credentialId,omitempty"`
	ClientID     *uuid.UUID `json:"clientId,omitempty"`
	ClientSecret string     `json:"clientSecret,omitempty"`
	CreatedAt    *time.Time `json:"createdAt,omitempty"`
}

// OperatorRevocation takes a credential back that was issued by an OperatorCredentialRequest and could not be handed over.
type OperatorRevocation struct {
	AgentID      uuid.UUID `json:"agentId"`
	CredentialID uuid.UUID `json:"credentialId"`
}

// Caller sends one JSON request to the credentials service and decodes its answer; *peer.Client is one.
type Caller interface {
	Do(ctx context.Context, method, path string, in, out any) error
	// Ask is Do for a POST that can do no harm twice, and may be sent twice.
	Ask(ctx context.Context, path string, in, out any) error
}

// Client calls the credentials service's internal API. It is safe for concurrent use.
type Client struct{ caller Caller }

// NewClient gives a client that sends through caller.
func NewClient(caller Caller) *Client { return &Client{caller: caller} }

// Verify checks a secret. A wrong one is an answer (Valid false), not an error; an error is SERVICE_UNAVAILABLE or worse and
// means that nothing is known about the secret.
func (c *Client) Verify(ctx context.Context, req VerifyRequest) (VerifyResponse, error) {
	var res VerifyResponse
	if err := c.caller.Ask(ctx, VerifyPath, revealed(req), &res); err != nil {
		return VerifyResponse{}, err
	}
	if !res.Valid && res.Reason == "" {
		// A body that lacks the answer must not be read as a false one.
		return VerifyResponse{}, apperr.Unavailable(errors.New("credentials service gave no answer about a secret"))
	}
	return res, nil
}

// revealedRequest is a VerifyRequest on the wire, where the secret has to be seen.
type revealedRequest struct {
	ClientID uuid.UUID `json:"clientId"`
	Secret   string    `json:"secret"`
}

func revealed(req VerifyRequest) revealedRequest {
	return revealedRequest{req.ClientID, req.Secret.Reveal()}
}

// Screen tells which of the secrets, at most MaxScreened, are worth a Verify.
func (c *Client) Screen(ctx context.Context, secrets []VerifyRequest) ([]bool, error) {
	wire := struct {
		Secrets []revealedRequest `json:"secrets"`
	}{make([]revealedRequest, len(secrets))}
	for i, req := range secrets {
		wire.Secrets[i] = revealed(req)
	}
	var res ScreenResponse
	if err := c.caller.Ask(ctx, ScreenPath, wire, &res); err != nil {
		return nil, err
	}
	if len(res.Plausible) != len(secrets) {
		return nil, apperr.Unavailable(errors.New("credentials service gave no answer about some secrets"))
	}
	return res.Plausible, nil
}

// RecordUse tells when credentials were used. Repeats do no harm: a credential keeps the latest time.
func (c *Client) RecordUse(ctx context.Context, uses []Use) error {
	return c.caller.Ask(ctx, UsagePath, UsageRequest{Uses: uses}, nil)
}

// OperatorCredential gives the operator a credential, unless it has one and req says to create none then.
func (c *Client) OperatorCredential(ctx context.Context, req OperatorCredentialRequest) (OperatorCredential, error) {
	var res OperatorCredential
	if err := c.caller.Do(ctx, http.MethodPost, OperatorCredentialPath, req, &res); err != nil {
		return OperatorCredential{}, err
	}
	return res, nil
}

// RevokeOperatorCredential ends a credential of the operator for good. One that is revoked already is an error, and revoked.
func (c *Client) RevokeOperatorCredential(ctx context.Context, req OperatorRevocation) error {
	return c.caller.Do(ctx, http.MethodPost, OperatorRevocationPath, req, nil)
}
