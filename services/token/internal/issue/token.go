package issue

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sentryagent/agentidp/pkg/authn"
)

const (
	// maxClaimsBytes is how much a token may say, so that our own verifiers still look at it. It leaves 2 KiB for
	// the header and the signature, of which RSA with 8192 bits makes 1,366 characters.
	maxClaimsBytes = (authn.MaxTokenBytes - 2<<10) / 4 * 3
	// usualClaimsBytes is enough for most tokens.
	usualClaimsBytes = 768
)

// Claims of an access token (RFC 9068 §2.2), in the order they are written.
type Claims struct {
	Issuer        string   `json:"iss"`
	Subject       string   `json:"sub"`
	ClientID      string   `json:"client_id"`
	Audience      Audience `json:"aud"`
	IssuedAt      int64    `json:"iat"`
	NotBefore     int64    `json:"nbf"`
	ExpiresAt     int64    `json:"exp"`
	ID            string   `json:"jti"`
	Scope         string   `json:"scope"`
	AgentType     string   `json:"agent_type"`
	Owner         string   `json:"owner"`
	DeploymentEnv string   `json:"deployment_env"`
}

// write gives the claims as JSON, with characters as they are where JSON allows it: an & of a URI is one octet, not six.
func (c Claims) write() ([]byte, error) {
	var text bytes.Buffer
	text.Grow(usualClaimsBytes)
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(c); err != nil {
		return nil, fmt.Errorf("write the claims: %w", err)
	}
	return bytes.TrimSuffix(text.Bytes(), []byte{'\n'}), nil
}

// issueTime is the time a token of the agent is issued at, to the millisecond: now,
// but after the instant up to which the agent's tokens are refused. Without that a
// token made right after a reactivation, by a clock that is behind, would be born dead.
func issueTime(now, validAfter time.Time) time.Time {
	at := now.UTC().Truncate(time.Millisecond)
	earliest := validAfter.UTC().Truncate(time.Millisecond).Add(time.Millisecond)
	if !validAfter.IsZero() && at.Before(earliest) {
		return earliest
	}
	return at
}

// claimsOf gives the claims of a token that was verified before, as write gave them. They are the answer of an
// introspection too, also while a newer release signs: whoever adds a claim has it in the description of that answer a
// release before, and none is ever called active or token_type.
func claimsOf(token string) ([]byte, error) {
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	claims, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return nil, fmt.Errorf("decode the claims of a verified token: %w", err)
	}
	if len(claims) <= len("{}") || claims[0] != '{' || claims[len(claims)-1] != '}' {
		return nil, errors.New("the claims of a verified token are no object")
	}
	return claims, nil
}
