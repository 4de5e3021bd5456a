// Package authn decides whether a bearer token is a genuine, current access token of this issuer and whose it is. It must
// not decide what the token may do (authz), nor whether it was revoked (revocation), and never logs or returns the token.
package authn

import (
	"context"
	"crypto"
	"errors"
	"time"

	"github.com/google/uuid"
)

// MaxTokenBytes is the longest token that is looked at. One with all the capabilities and resources that an agent may have
// takes about 12 KiB; a server must allow more than this in the headers of a request.
const MaxTokenBytes = 16 << 10

// Leeway is by how much clocks may differ when exp, nbf and iat are checked, unless a Verifier is told otherwise.
const Leeway = 5 * time.Second

// The signature algorithms there are (RFC 7518 §3.1, RFC 8037 §3.1).
const (
	RS256 = "RS256"
	ES256 = "ES256"
	EdDSA = "EdDSA"
)

// Principal is who a token speaks for.
type Principal struct {
	AgentID uuid.UUID
	Scopes  []string
	// TokenID is the jti, a UUIDv7 in canonical form.
	TokenID string
	// IssuedAt is precise to the millisecond: it comes from the jti, because iat has whole seconds only.
	IssuedAt  time.Time
	ExpiresAt time.Time
	// Owner is the claim owner: the owner of the agent when the token was issued.
	Owner string
}

// Key is a public signing key. Algorithm is the only one that it verifies: RS256, ES256 or EdDSA.
type Key struct {
	ID        string
	Algorithm string
	Public    crypto.PublicKey
}

// ErrUnknownKey says that no key has that id. Any other error of a KeySet means that this could not be found out.
var ErrUnknownKey = errors.New("unknown signing key")

// KeySet finds keys by their id (kid).
type KeySet interface {
	Key(ctx context.Context, kid string) (Key, error)
}
