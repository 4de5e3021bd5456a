package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/golang-jwt/jwt/v5"
	"github.com/lestrrat-go/httprc/v3"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"
	jwxt "github.com/lestrrat-go/jwx/v3/jwt"
	zitadelclient "github.com/zitadel/oidc/v3/pkg/client"
	"github.com/zitadel/oidc/v3/pkg/client/rp"
	zitadel "github.com/zitadel/oidc/v3/pkg/oidc"
)

// tokenLifetime is what tokens live where nothing else is set.
const tokenLifetime = time.Hour

// verified is what a verifier found in a token that it accepted. algorithm is what it was signed with.
type verified struct{ subject, clientID, scope, algorithm string }

// verifier is a resource server made with somebody else's library. It is told the issuer and nothing else, and demands
// that the issuer is the audience as well.
type verifier struct {
	name   string
	verify func(ctx context.Context, issuer, raw string) (verified, error)
}

func verifiers() []verifier {
	return []verifier{
		{"go-oidc verifies through OpenID discovery", verifyWithGoOIDC},
		{"keyfunc and golang-jwt verify through RFC 8414 and the JWKS", verifyWithKeyfunc},
		{"jwx verifies through RFC 8414 and its cache of the JWKS", verifyWithJWX},
		{"zitadel/oidc verifies through OpenID discovery", verifyWithZitadel},
	}
}

func verifyWithGoOIDC(ctx context.Context, issuer, raw string) (verified, error) {
	provider, err := oidc.NewProvider(ctx, issuer)
	if err != nil {
		return verified{}, err
	}
	token, err := provider.VerifierContext(ctx, &oidc.Config{ClientID: issuer}).Verify(ctx, raw)
	if err != nil {
		return verified{}, err
	}
	var claims struct {
		ClientID string `json:"client_id"`
		Scope    string `json:"scope"`
	}
	if err := token.Claims(&claims); err != nil {
		return verified{}, err
	}
	return verified{token.Subject, claims.ClientID, claims.Scope, algorithmOf(raw)}, nil
}

func verifyWithKeyfunc(ctx context.Context, issuer, raw string) (verified, error) {
	address, err := discoverJWKS(ctx, issuer)
	if err != nil {
		return verified{}, err
	}
	keys, err := keyfunc.NewDefaultCtx(ctx, []string{address})
	if err != nil {
		return verified{}, err
	}
	var claims struct {
		jwt.RegisteredClaims

		ClientID string `json:"client_id"`
		Scope    string `json:"scope"`
	}
	token, err := jwt.ParseWithClaims(raw, &claims, keys.Keyfunc, jwt.WithIssuer(issuer), jwt.WithAudience(issuer),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithStrictDecoding())
	if err != nil {
		return verified{}, err
	}
	if token.Header["typ"] != "at+jwt" {
		return verified{}, errors.New("not an access token (RFC 9068 §4)")
	}
	return verified{claims.Subject, claims.ClientID, claims.Scope, token.Method.Alg()}, nil
}

func verifyWithJWX(ctx context.Context, issuer, raw string) (verified, error) {
	address, err := discoverJWKS(ctx, issuer)
	if err != nil {
		return verified{}, err
	}
	cache, err := jwk.NewCache(ctx, httprc.NewClient())
	if err != nil {
		return verified{}, err
	}
	if err := cache.Register(ctx, address); err != nil {
		return verified{}, err
	}
	keys, err := cache.CachedSet(address)
	if err != nil {
		return verified{}, err
	}
	token, err := jwxt.ParseString(raw, jwxt.WithKeySet(keys), jwxt.WithIssuer(issuer), jwxt.WithAudience(issuer), jwxt.WithPedantic(true),
		jwxt.WithRequiredClaim("exp"), jwxt.WithRequiredClaim("iat"), jwxt.WithRequiredClaim("jti"))
	if err != nil {
		return verified{}, err
	}
	message, err := jws.Parse([]byte(raw))
	if err != nil {
		return verified{}, err
	}
	header := message.Signatures()[0].ProtectedHeaders()
	if typ, _ := header.Type(); typ != "at+jwt" {
		return verified{}, errors.New("not an access token (RFC 9068 §4)")
	}
	algorithm, _ := header.Algorithm()
	seen := verified{algorithm: algorithm.String()}
	seen.subject, _ = token.Subject()
	return seen, errors.Join(token.Get("client_id", &seen.clientID), token.Get("scope", &seen.scope))
}

func verifyWithZitadel(ctx context.Context, issuer, raw string) (verified, error) {
	document, err := zitadelclient.Discover(ctx, issuer, http.DefaultClient)
	if err != nil {
		return verified{}, err
	}
	var claims zitadel.AccessTokenClaims
	payload, err := zitadel.ParseToken(raw, &claims)
	if err != nil {
		return verified{}, err
	}
	keys := rp.NewRemoteKeySet(http.DefaultClient, document.JwksURI)
	if err := zitadel.CheckSignature(ctx, raw, payload, &claims, document.IDTokenSigningAlgValuesSupported, keys); err != nil {
		return verified{}, err
	}
	err = errors.Join(zitadel.CheckIssuer(&claims, document.Issuer), zitadel.CheckAudience(&claims, document.Issuer),
		zitadel.CheckExpiration(&claims, 0), zitadel.CheckIssuedAt(&claims, tokenLifetime, 0))
	scope, _ := claims.Claims["scope"].(string)
	return verified{claims.Subject, claims.ClientID, scope, string(claims.SignatureAlg)}, err
}

// discoverJWKS follows RFC 8414 §3 as a program without a library for it does.
func discoverJWKS(ctx context.Context, issuer string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, issuer+"/.well-known/oauth-authorization-server", nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	var document struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&document); err != nil {
		return "", err
	}
	if document.Issuer != issuer {
		return "", fmt.Errorf("the document is of issuer %q (RFC 8414 §3.3)", document.Issuer)
	}
	return document.JWKSURI, nil
}

// algorithmOf reads what a token says it is signed with.
func algorithmOf(raw string) string {
	token, _, err := jwt.NewParser().ParseUnverified(raw, jwt.MapClaims{})
	if err != nil {
		return ""
	}
	return token.Method.Alg()
}
