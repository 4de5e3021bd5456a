package authn

import (
	"net/http"
	"strings"

	"github.com/sentryagent/agentidp/pkg/apperr"
)

const (
	// challengeMissing is the challenge to a request without a token: RFC 6750 §3.1 asks for no error code then.
	challengeMissing = `Bearer realm="agentidp"`

	messageMissing = "A bearer token is required."
	messageInvalid = "The bearer token is missing, malformed, expired, revoked or not valid here."
)

// BearerToken gives the token of the one Authorization header, RFC 6750 §2.1. Without a header, or with another scheme, the
// error's challenge names no error code, as RFC 6750 §3.1 asks; a malformed or repeated one is invalid_token, which is what
// that section has for a 401 (invalid_request would be a 400).
func BearerToken(h http.Header) (string, error) {
	values := h.Values("Authorization")
	if len(values) == 0 {
		return "", apperr.New(apperr.Unauthorized, messageMissing).WithChallenge(challengeMissing)
	}
	if len(values) > 1 {
		return "", refuse("more than one Authorization header")
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", apperr.New(apperr.Unauthorized, messageMissing).WithChallenge(challengeMissing)
	}
	// RFC 9110 §11.4 allows more than one space between scheme and credentials.
	token = strings.TrimLeft(token, " ")
	switch {
	case token == "":
		return "", refuse("the bearer token is empty")
	case len(token) > MaxTokenBytes:
		return "", refuse("the bearer token is too long")
	case !isB64Token(token):
		return "", refuse("the bearer token is malformed")
	}
	return token, nil
}

// isB64Token tells whether s is a b64token of RFC 6750 §2.1.
func isB64Token(s string) bool {
	body := strings.TrimRight(s, "=")
	for i := range len(body) {
		if !b64Octets[body[i]] {
			return false
		}
	}
	return body != ""
}

// b64Octets are those of a b64token. A table, as every request has a thousand of them to look at.
var b64Octets = func() (octets [256]bool) { //nolint:gochecknoglobals // a constant, which an array cannot be
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/") {
		octets[c] = true
	}
	return octets
}()

// Revoked is the error for a genuine token that was revoked or whose agent was cut off.
func Revoked() error { return refuse("the token was revoked") }

// refuse makes the 401 with a challenge of RFC 6750 §3. The description is a fixed text of this package: it goes into a
// header in quotes, so nothing that came from the request may be in it.
func refuse(description string) *apperr.Error {
	return apperr.New(apperr.Unauthorized, messageInvalid).
		WithChallenge(challengeMissing + `, error="invalid_token", error_description="` + description + `"`)
}
