package agentidp

import (
	"context"
	"iter"
	"net/http"
	"time"
)

// CredentialStatus says whether a credential can be used.
type CredentialStatus string

// The statuses of credentials.
const (
	CredentialActive  CredentialStatus = "active"
	CredentialRevoked CredentialStatus = "revoked"
)

// Credential is what an agent authenticates with, without its secret.
type Credential struct {
	ID string `json:"credentialId"`
	// ClientID is the id of the agent.
	ClientID  string           `json:"clientId"`
	Status    CredentialStatus `json:"status"`
	CreatedAt time.Time        `json:"createdAt"`
	// ExpiresAt is when the secret stops being good; nil for never.
	ExpiresAt *time.Time `json:"expiresAt"`
	// RotatedAt is when the secret was last replaced; nil for never.
	RotatedAt *time.Time `json:"rotatedAt"`
	RevokedAt *time.Time `json:"revokedAt"`
	// LastUsedAt is up to a minute late; nil for never.
	LastUsedAt *time.Time `json:"lastUsedAt"`
	// PreviousSecretExpiresAt is when the secret before the last rotation stops
	// being good, or stopped; nil without a rotation that left it time.
	PreviousSecretExpiresAt *time.Time `json:"previousSecretExpiresAt"`
	// PreviousSecretLastUsedAt tells whether somebody still uses it.
	PreviousSecretLastUsedAt *time.Time `json:"previousSecretLastUsedAt"`
}

// IssuedCredential is a credential with its secret, which the provider shows this
// once and does not know any more.
type IssuedCredential struct {
	Credential

	Secret Secret `json:"clientSecret"`
}

// Credentials are the secrets agents authenticate with. All methods need
// agents:write and the agent to be the caller, or agents:admin.
type Credentials struct{ client *Client }

// Generate makes a credential that is good until expiresAt; the zero time means
// for ever. It is not repeated when its answer gets lost: see List for what was
// made.
func (c *Credentials) Generate(ctx context.Context, agentID string, expiresAt time.Time) (IssuedCredential, error) {
	path, err := path("/agents/{}/credentials", agentID)
	if err != nil {
		return IssuedCredential{}, err
	}
	body := struct {
		ExpiresAt time.Time `json:"expiresAt,omitzero"`
	}{expiresAt}
	var issued IssuedCredential
	_, err = c.client.do(ctx, call{method: http.MethodPost, path: path, json: body, out: &issued})
	return issued, err
}

// All walks all credentials of an agent, newest first; an empty status means of
// any status. After an error the walk is over.
func (c *Credentials) All(ctx context.Context, agentID string, status CredentialStatus) iter.Seq2[Credential, error] {
	return walk(func(options ListOptions) (Page[Credential], error) { return c.List(ctx, agentID, status, options) })
}

// List returns one page of the credentials of an agent, newest first; an empty
// status means of any status.
func (c *Credentials) List(ctx context.Context, agentID string, status CredentialStatus, options ListOptions) (Page[Credential], error) {
	path, err := path("/agents/{}/credentials", agentID)
	if err != nil {
		return Page[Credential]{}, err
	}
	return list[Credential](ctx, c.client, path, restrict(map[string]string{"status": string(status)}), options)
}

// Rotate replaces the secret of a credential. The old one stays good for grace, in
// whole seconds, at most 24 hours; 0 ends it at once.
func (c *Credentials) Rotate(ctx context.Context, agentID, credentialID string, grace time.Duration) (IssuedCredential, error) {
	path, err := path("/agents/{}/credentials/{}/rotate", agentID, credentialID)
	if err != nil {
		return IssuedCredential{}, err
	}
	body := struct {
		GracePeriodSeconds int64 `json:"gracePeriodSeconds"`
	}{int64(grace / time.Second)}
	var issued IssuedCredential
	_, err = c.client.do(ctx, call{method: http.MethodPost, path: path, json: body, out: &issued})
	return issued, err
}

// Revoke ends a credential for good.
func (c *Credentials) Revoke(ctx context.Context, agentID, credentialID string) error {
	path, err := path("/agents/{}/credentials/{}", agentID, credentialID)
	if err != nil {
		return err
	}
	_, err = c.client.do(ctx, call{method: http.MethodDelete, path: path})
	return err
}
