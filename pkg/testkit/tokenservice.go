package testkit

import (
	"crypto/ed25519"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/peer"
	"github.com/sentryagent/agentidp/pkg/tokenapi"
)

// TokenService stands for the token service as its peers see it: it publishes a key, signs with it, and knows of no
// revocation.
type TokenService struct {
	URL string // TOKEN_INTERNAL_URL

	issuer string
	key    ed25519.PrivateKey
}

// StartTokenService starts one for the test; its tokens are those of the issuer.
func StartTokenService(tb testing.TB, issuer string) *TokenService {
	tb.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		tb.Fatalf("make a signing key: %v", err)
	}
	set, err := authn.MarshalJWKS([]authn.Key{{ID: "k1", Algorithm: authn.EdDSA, Public: public}})
	if err != nil {
		tb.Fatalf("write a key set: %v", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+peer.Prefix+tokenapi.JWKSPath, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(set) })
	mux.HandleFunc("POST "+peer.Prefix+tokenapi.CheckRevocationsPath, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(tokenapi.CheckResponse{})
	})
	server := httptest.NewServer(mux)
	tb.Cleanup(server.Close)
	return &TokenService{URL: server.URL, issuer: issuer, key: private}
}

// Sign makes a token for an agent, as the token service would.
func (s *TokenService) Sign(tb testing.TB, agent uuid.UUID, scope string) string {
	tb.Helper()
	now := time.Now()
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"iss": s.issuer, "aud": s.issuer, "sub": agent.String(), "client_id": agent.String(),
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"jti": uuid.Must(uuid.NewV7()).String(), "scope": scope, "owner": "tests",
	})
	token.Header["typ"], token.Header["kid"] = "at+jwt", "k1"
	signed, err := token.SignedString(s.key)
	if err != nil {
		tb.Fatalf("sign a token: %v", err)
	}
	return signed
}
