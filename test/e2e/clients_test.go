package e2e

import (
	"context"
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/client/rs"
	zitadel "github.com/zitadel/oidc/v3/pkg/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// party is an agent with a secret.
type party struct{ id, secret string }

// party registers an agent, with the fields changed, and gives it a secret.
func (in *installation) party(t *testing.T, operator, email string, fields map[string]any) party {
	t.Helper()
	id := in.register(t, operator, email, fields)
	_, secret := in.credential(t, operator, id)
	return party{id: id, secret: secret}
}

// Nothing in here knows this system but by its issuer, a client id and a secret: what the libraries need beyond that they
// find out themselves.
func TestOtherPeoplesClientsWorkAsTheyAre(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"RS256", "ES256", "EdDSA"} {
		t.Run("with an issuer that signs with "+algorithm, func(t *testing.T) {
			t.Parallel()
			in := install(t, "SIGNING_ALG="+algorithm)
			operator := in.operator(t)
			agent := in.party(t, operator, "stranger@example.com", nil)
			raw := in.token(t, agent.id, agent.secret, "resume:read")
			for _, verifier := range verifiers() {
				t.Run(verifier.name, func(t *testing.T) {
					t.Parallel()
					ctx, cancel := context.WithCancel(context.Background())
					defer cancel()
					seen, err := verifier.verify(ctx, in.url, raw)
					require.NoError(t, err)
					require.Equal(t, verified{subject: agent.id, clientID: agent.id, scope: "resume:read", algorithm: algorithm}, seen)
					_, err = verifier.verify(ctx, in.url, tamper(raw))
					require.Error(t, err, "a verifier that accepts all proves nothing")
				})
			}
			t.Run("x/oauth2 gets tokens", func(t *testing.T) { requireOAuth2(t, in, agent) })
			t.Run("zitadel/oidc introspects", func(t *testing.T) { requireIntrospection(t, in.url, agent, raw) })
		})
	}
}

// tamper changes one character in the middle of a token's signature.
func tamper(token string) string {
	at := len(token) - 20
	other := byte('A')
	if token[at] == other {
		other = 'B'
	}
	return token[:at] + string(other) + token[at+1:]
}

func requireOAuth2(t *testing.T, in *installation, agent party) {
	t.Helper()
	for name, style := range map[string]oauth2.AuthStyle{
		"in the form": oauth2.AuthStyleInParams, "in the header": oauth2.AuthStyleInHeader, "as it finds out": oauth2.AuthStyleAutoDetect,
	} {
		t.Run("with the secret "+name, func(t *testing.T) {
			t.Parallel()
			config := clientcredentials.Config{ClientID: agent.id, ClientSecret: agent.secret, TokenURL: in.url + "/api/v1/token",
				Scopes: []string{"agents:read", "resume:read"}, AuthStyle: style}
			token, err := config.Token(context.Background())
			require.NoError(t, err)
			require.Equal(t, "Bearer", token.Type())
			require.Equal(t, "agents:read resume:read", token.Extra("scope"))
			require.False(t, token.Expiry.IsZero())
			resp, err := config.Client(context.Background()).Get(in.url + "/api/v1/agents/" + agent.id)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, http.StatusOK, resp.StatusCode)
		})
		t.Run("with characters to encode in a wrong secret "+name, func(t *testing.T) {
			t.Parallel()
			config := clientcredentials.Config{ClientID: "a b+c%41:ü&=", ClientSecret: "s p+q%42:é&=\"", TokenURL: in.url + "/api/v1/token", AuthStyle: style}
			_, err := config.Token(context.Background())
			var refused *oauth2.RetrieveError
			require.ErrorAs(t, err, &refused)
			require.Equal(t, "invalid_client", refused.ErrorCode, "it was read, and is nobody's")
			require.NotEmpty(t, refused.ErrorDescription)
		})
	}
}

func requireIntrospection(t *testing.T, issuer string, agent party, raw string) {
	t.Helper()
	ctx := context.Background()
	server, err := rs.NewResourceServerClientCredentials(ctx, issuer, agent.id, agent.secret)
	require.NoError(t, err)
	require.Equal(t, issuer+"/api/v1/token/introspect", server.IntrospectionURL())
	live, err := rs.Introspect[*zitadel.IntrospectionResponse](ctx, server, raw)
	require.NoError(t, err)
	require.True(t, live.Active)
	require.Equal(t, agent.id, live.Subject)
	require.Equal(t, agent.id, live.ClientID)
	require.Equal(t, issuer, live.Issuer)
	require.Equal(t, zitadel.Audience{issuer}, live.Audience)
	require.Equal(t, zitadel.SpaceDelimitedArray{"resume:read"}, live.Scope)
	require.Equal(t, "Bearer", live.TokenType)
	require.Equal(t, live.IssuedAt.AsTime().Add(tokenLifetime), live.Expiration.AsTime())
	require.Equal(t, "screener", live.Claims["agent_type"])

	dead, err := rs.Introspect[*zitadel.IntrospectionResponse](ctx, server, tamper(raw))
	require.NoError(t, err)
	require.Equal(t, &zitadel.IntrospectionResponse{Claims: map[string]any{"active": false}}, dead)

	stranger, err := rs.NewResourceServerClientCredentials(ctx, issuer, agent.id, "wrong & encoded + %20")
	require.NoError(t, err)
	_, err = rs.Introspect[*zitadel.IntrospectionResponse](ctx, stranger, raw)
	require.ErrorContains(t, err, url.QueryEscape("invalid_client"))
}
