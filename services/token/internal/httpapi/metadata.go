package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/services/token/internal/assertion"
)

const (
	pathAuthorize      = "/oauth2/authorize"
	pathJWKS           = "/.well-known/jwks.json"
	pathOAuthMetadata  = "/.well-known/oauth-authorization-server"
	pathOpenIDMetadata = "/.well-known/openid-configuration"

	cachePublic = "public, max-age=300"
	mediaJSON   = "application/json"
)

// serverMetadata is RFC 8414 §2. It lists what works and nothing else; what
// clients insist on and is not there is listed as empty, or as an endpoint that
// says so.
type serverMetadata struct {
	Issuer                      string   `json:"issuer"`
	AuthorizationEndpoint       string   `json:"authorization_endpoint"`
	TokenEndpoint               string   `json:"token_endpoint"`
	JWKSURI                     string   `json:"jwks_uri"`
	ScopesSupported             []string `json:"scopes_supported"`
	ResponseTypesSupported      []string `json:"response_types_supported"`
	GrantTypesSupported         []string `json:"grant_types_supported"`
	TokenAuthMethods            []string `json:"token_endpoint_auth_methods_supported"`
	TokenAuthAlgorithms         []string `json:"token_endpoint_auth_signing_alg_values_supported"`
	RevocationEndpoint          string   `json:"revocation_endpoint"`
	RevocationAuthMethods       []string `json:"revocation_endpoint_auth_methods_supported"`
	RevocationAuthAlgorithms    []string `json:"revocation_endpoint_auth_signing_alg_values_supported"`
	IntrospectionEndpoint       string   `json:"introspection_endpoint"`
	IntrospectionAuthMethods    []string `json:"introspection_endpoint_auth_methods_supported"`
	IntrospectionAuthAlgorithms []string `json:"introspection_endpoint_auth_signing_alg_values_supported"`
	SubjectTypesSupported       []string `json:"subject_types_supported,omitempty"`
	IDTokenAlgorithmSupported   []string `json:"id_token_signing_alg_values_supported,omitempty"`
}

func (a *api) writeMetadata() error {
	clientMethods := []string{"client_secret_basic", "client_secret_post", "private_key_jwt"}
	algorithms := assertion.Algorithms()
	metadata := serverMetadata{
		Issuer:                   a.URL,
		AuthorizationEndpoint:    a.URL + pathAuthorize,
		TokenEndpoint:            a.URL + "/api/v1/token",
		JWKSURI:                  a.URL + pathJWKS,
		ScopesSupported:          authz.SystemScopes(),
		ResponseTypesSupported:   []string{},
		GrantTypesSupported:      []string{grantClientCredentials},
		TokenAuthMethods:         clientMethods,
		TokenAuthAlgorithms:      algorithms,
		RevocationEndpoint:       a.URL + "/api/v1/token/revoke",
		RevocationAuthMethods:    clientMethods,
		RevocationAuthAlgorithms: algorithms,
		IntrospectionEndpoint:    a.URL + "/api/v1/token/introspect",
		// The registry of token types adds Bearer here (RFC 8414 §2).
		IntrospectionAuthMethods:    append([]string{"Bearer"}, clientMethods...),
		IntrospectionAuthAlgorithms: algorithms,
	}
	var err error
	if a.oauthMetadata, err = json.Marshal(metadata); err != nil {
		return fmt.Errorf("write the server metadata: %w", err)
	}
	// There are no ID tokens; OpenID Connect Discovery §3 requires both members, and RS256 in the second. Verifiers take
	// it for what this issuer signs with, and read it once in their life: so it names every algorithm that SIGNING_ALG
	// may choose, or a change of it would be refused until they start again.
	metadata.SubjectTypesSupported = []string{"public"}
	metadata.IDTokenAlgorithmSupported = []string{authn.RS256, authn.ES256, authn.EdDSA}
	if a.openIDMetadata, err = json.Marshal(metadata); err != nil {
		return fmt.Errorf("write the OpenID metadata: %w", err)
	}
	return nil
}

// oauthServer is GET /.well-known/oauth-authorization-server (RFC 8414 §3).
func (a *api) oauthServer(c *gin.Context) { publish(c, a.oauthMetadata) }

// openIDConfiguration is GET /.well-known/openid-configuration (OpenID Connect Discovery §4).
func (a *api) openIDConfiguration(c *gin.Context) { publish(c, a.openIDMetadata) }

func publish(c *gin.Context, document []byte) {
	c.Header("Cache-Control", cachePublic)
	c.Data(http.StatusOK, mediaJSON, document)
}

// authorize is GET /oauth2/authorize: there is no user to ask, so no response type works.
func (a *api) authorize(c *gin.Context) {
	httpx.JSON(c, http.StatusBadRequest, problem{
		Error:       "unsupported_response_type",
		Description: "There is no authorization endpoint flow here; use the client credentials grant at the token endpoint.",
	})
}
