package agentidp

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const agentJSON = `{"agentId":"` + agentID + `","email":"screener@example.com","agentType":"screener","version":"1.2.3",
	"capabilities":["resume:read"],"owner":"talent","deploymentEnv":"production","allowedScopes":["agents:read"],
	"allowedResources":["https://resumes.example.com/"],"status":"active",
	"registeredBy":null,"createdAt":"2026-11-22T09:00:00Z","updatedAt":"2026-11-22T10:00:00Z"}`

func wantAgent() Agent {
	return Agent{
		ID: agentID, Email: "screener@example.com", Type: Screener, Version: "1.2.3", Capabilities: []string{"resume:read"},
		Owner: "talent", DeploymentEnv: Production, AllowedScopes: []string{"agents:read"},
		AllowedResources: []string{"https://resumes.example.com/"}, Status: Active,
		CreatedAt: time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC), UpdatedAt: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC),
		ETag: `"3"`,
	}
}

func TestRequestsAndAnswersOfEveryMethod(t *testing.T) {
	t.Parallel()
	agent := answer{200, map[string]string{"ETag": `"3"`}, agentJSON}
	at := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	credential := `{"credentialId":"` + credentialID + `","clientId":"` + agentID + `","status":"active","createdAt":"2026-11-22T09:00:00Z",
		"expiresAt":"2026-11-22T09:00:00Z","rotatedAt":null,"revokedAt":null,"lastUsedAt":null,"clientSecret":"` + clientSecret + `"}`
	issued := IssuedCredential{
		Credential: Credential{ID: credentialID, ClientID: agentID, Status: CredentialActive, CreatedAt: at, ExpiresAt: &at},
		Secret:     clientSecret,
	}
	event := `{"eventId":"` + eventID + `","timestamp":"2026-11-22T09:00:00Z","agentId":"` + agentID + `","actorId":null,"action":"auth.failed",
		"outcome":"failure","ipAddress":"203.0.113.7","userAgent":"curl","service":"token","requestId":"r","metadata":{"reason":"invalid_secret"}}`
	tests := map[string]struct {
		say    answer
		call   func(ctx context.Context, c *Client) (any, error)
		want   any
		method string
		path   string
		query  string
		body   string // JSON, or a form
		header string // name: value
	}{
		"register": {
			say: agent, want: wantAgent(), method: "POST", path: "/api/v1/agents",
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.Agents.Register(ctx, Registration{
					Email: "screener@example.com", Type: Screener, Version: "1.2.3", Capabilities: []string{"resume:read"},
					Owner: "talent", DeploymentEnv: Production, IdempotencyKey: "once",
				})
			},
			body: `{"email":"screener@example.com","agentType":"screener","version":"1.2.3","capabilities":["resume:read"],
				"owner":"talent","deploymentEnv":"production"}`,
			header: "Idempotency-Key: once",
		},
		"register without any scope": {
			say: agent, want: wantAgent(), method: "POST", path: "/api/v1/agents",
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.Agents.Register(ctx, Registration{AllowedScopes: []string{}})
			},
			body: `{"email":"","agentType":"","version":"","capabilities":null,"owner":"","deploymentEnv":"","allowedScopes":[]}`,
		},
		"register for a resource": {
			say: agent, want: wantAgent(), method: "POST", path: "/api/v1/agents",
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.Agents.Register(ctx, Registration{AllowedResources: []string{"urn:a:b"}})
			},
			body: `{"email":"","agentType":"","version":"","capabilities":null,"owner":"","deploymentEnv":"","allowedResources":["urn:a:b"]}`,
		},
		"read keys": {
			say:  answer{200, map[string]string{"ETag": `"4"`}, `{"jwks":{"keys":[{"kty":"OKP"}]}}`},
			want: AgentKeys{JWKS: json.RawMessage(`{"keys":[{"kty":"OKP"}]}`), ETag: `"4"`}, method: "GET", path: "/api/v1/agents/" + agentID + "/keys",
			call: func(ctx context.Context, c *Client) (any, error) { return c.Agents.Keys(ctx, agentID) },
		},
		"set keys": {
			say: answer{200, nil, `{"jwks":{"keys":[]}}`}, want: AgentKeys{JWKS: json.RawMessage(`{"keys":[]}`)},
			method: "PUT", path: "/api/v1/agents/" + agentID + "/keys",
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.Agents.SetKeys(ctx, agentID, AgentKeys{JWKS: json.RawMessage(`{"keys":[7]}`), ETag: "not sent"})
			},
			body: `{"jwks":{"keys":[7]}}`,
		},
		"set the URI of keys": {
			say: answer{200, nil, `{"jwksUri":"https://a.example/"}`}, want: AgentKeys{JWKSURI: "https://a.example/"},
			method: "PUT", path: "/api/v1/agents/" + agentID + "/keys",
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.Agents.SetKeys(ctx, agentID, AgentKeys{JWKSURI: "https://a.example/", IfMatch: `"3"`})
			},
			body: `{"jwksUri":"https://a.example/"}`, header: `If-Match: "3"`,
		},
		"remove keys": {
			say: answer{204, nil, ""}, method: "DELETE", path: "/api/v1/agents/" + agentID + "/keys",
			call: func(ctx context.Context, c *Client) (any, error) {
				return nil, c.Agents.RemoveKeys(ctx, agentID, `"3"`)
			},
			header: `If-Match: "3"`,
		},
		"remove keys, whatever they are": {
			say: answer{204, nil, ""}, method: "DELETE", path: "/api/v1/agents/" + agentID + "/keys",
			call: func(ctx context.Context, c *Client) (any, error) { return nil, c.Agents.RemoveKeys(ctx, agentID, "") },
		},
		"get an agent": {
			say: agent, want: wantAgent(), method: "GET", path: "/api/v1/agents/" + agentID,
			call: func(ctx context.Context, c *Client) (any, error) { return c.Agents.Get(ctx, agentID) },
		},
		"update": {
			say: agent, want: wantAgent(), method: "PATCH", path: "/api/v1/agents/" + agentID,
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.Agents.Update(ctx, agentID, AgentUpdate{
					Status: new(Suspended), AllowedScopes: []string{}, AllowedResources: []string{}, IfMatch: `"2"`,
				})
			},
			body: `{"status":"suspended","allowedScopes":[],"allowedResources":[]}`, header: `If-Match: "2"`,
		},
		"decommission": {
			say: answer{204, nil, ""}, method: "DELETE", path: "/api/v1/agents/" + agentID,
			call: func(ctx context.Context, c *Client) (any, error) { return nil, c.Agents.Decommission(ctx, agentID) },
		},
		"list agents": {
			say:  answer{200, nil, `{"data":[],"total":7,"page":3,"limit":3,"nextCursor":"n"}`},
			want: Page[Agent]{Items: []Agent{}, Total: 7, Number: 3, Limit: 3, NextCursor: "n"}, method: "GET", path: "/api/v1/agents",
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.Agents.List(ctx, AgentFilter{
					Owner: "a&b", Type: Router, Status: Suspended, DeploymentEnv: Staging, Capability: "resume:*", Email: "a+b@example.com",
				}, ListOptions{Limit: 3, Page: 3})
			},
			query: "agentType=router&capability=resume:*&deploymentEnv=staging&email=a%2Bb@example.com&limit=3&owner=a%26b&page=3&status=suspended",
		},
		"generate": {
			say: answer{201, nil, credential}, want: issued, method: "POST", path: "/api/v1/agents/" + agentID + "/credentials",
			call: func(ctx context.Context, c *Client) (any, error) { return c.Credentials.Generate(ctx, agentID, at) },
			body: `{"expiresAt":"2026-11-22T09:00:00Z"}`,
		},
		"generate for ever": {
			say: answer{201, nil, credential}, want: issued, method: "POST", path: "/api/v1/agents/" + agentID + "/credentials",
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.Credentials.Generate(ctx, agentID, time.Time{})
			},
			body: `{}`,
		},
		"list credentials": {
			say:  answer{200, nil, `{"data":[` + credential + `],"total":1,"page":1,"limit":20}`},
			want: Page[Credential]{Items: []Credential{issued.Credential}, Total: 1, Number: 1, Limit: 20},
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.Credentials.List(ctx, agentID, CredentialActive, ListOptions{Cursor: "c"})
			},
			method: "GET", path: "/api/v1/agents/" + agentID + "/credentials", query: "cursor=c&status=active",
		},
		"rotate": {
			say: answer{200, nil, credential}, want: issued,
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.Credentials.Rotate(ctx, agentID, credentialID, 90*time.Second)
			},
			method: "POST", path: "/api/v1/agents/" + agentID + "/credentials/" + credentialID + "/rotate", body: `{"gracePeriodSeconds":90}`,
		},
		"revoke a credential": {
			say: answer{204, nil, ""},
			call: func(ctx context.Context, c *Client) (any, error) {
				return nil, c.Credentials.Revoke(ctx, agentID, credentialID)
			},
			method: "DELETE", path: "/api/v1/agents/" + agentID + "/credentials/" + credentialID,
		},
		"introspect a dead token": {
			say: answer{200, nil, `{"active":false}`}, want: Introspection{Scopes: []string{}}, method: "POST", path: "/api/v1/token/introspect",
			call: func(ctx context.Context, c *Client) (any, error) { return c.Introspect(ctx, "a+b") }, body: "token=a%2Bb",
		},
		"introspect a live token": {
			say: answer{200, nil, `{"active":true,"scope":"agents:read resume:read","client_id":"c","sub":"s","aud":"a","iss":"i","iat":1,"nbf":2,
				"exp":3,"jti":"j","token_type":"Bearer","agent_type":"screener","owner":"talent","deployment_env":"production"}`},
			want: Introspection{
				Active: true, Scopes: []string{"agents:read", "resume:read"}, ClientID: "c", Subject: "s", Audience: []string{"a"}, Issuer: "i",
				TokenID: "j", TokenType: "Bearer", AgentType: "screener", Owner: "talent", DeploymentEnv: "production",
				IssuedAt: time.Unix(1, 0).UTC(), NotBefore: time.Unix(2, 0).UTC(), ExpiresAt: time.Unix(3, 0).UTC(),
			},
			method: "POST", path: "/api/v1/token/introspect",
			call: func(ctx context.Context, c *Client) (any, error) { return c.Introspect(ctx, "t") }, body: "token=t",
		},
		"introspect a token for two audiences": {
			say: answer{200, nil, `{"active":true,"aud":["a","b"]}`}, want: Introspection{Active: true, Scopes: []string{}, Audience: []string{"a", "b"}},
			method: "POST", path: "/api/v1/token/introspect",
			call: func(ctx context.Context, c *Client) (any, error) { return c.Introspect(ctx, "t") }, body: "token=t",
		},
		"revoke a token": {
			say: answer{200, nil, ""}, method: "POST", path: "/api/v1/token/revoke",
			call: func(ctx context.Context, c *Client) (any, error) { return nil, c.Revoke(ctx, "t") }, body: "token=t",
		},
		"list events": {
			say:  answer{200, nil, `{"data":[],"total":0,"page":1,"limit":20}`},
			want: Page[AuditEvent]{Items: []AuditEvent{}, Number: 1, Limit: 20}, method: "GET", path: "/api/v1/audit",
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.Audit.List(ctx, AuditFilter{
					AgentID: agentID, ActorID: credentialID, Action: "token.issued", Outcome: "success",
					From: at.In(time.FixedZone("CET", 3600)), To: at.Add(time.Millisecond),
				}, ListOptions{})
			},
			query: "action=token.issued&actorId=" + credentialID + "&agentId=" + agentID +
				"&fromDate=2026-11-22T09:00:00Z&outcome=success&toDate=2026-11-22T09:00:00.001Z",
		},
		"get an event": {
			say: answer{200, nil, event}, method: "GET", path: "/api/v1/audit/" + eventID,
			call: func(ctx context.Context, c *Client) (any, error) { return c.Audit.Get(ctx, eventID) },
			want: AuditEvent{
				ID: eventID, Timestamp: at, AgentID: new(agentID), Action: "auth.failed", Outcome: "failure", IPAddress: "203.0.113.7",
				UserAgent: "curl", Service: "token", RequestID: "r", Metadata: map[string]any{"reason": "invalid_secret"},
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProvider(t, test.say)
			client, _ := newClient(t, p, nil)

			got, err := test.call(t.Context(), client)

			require.NoError(t, err)
			require.Equal(t, test.want, got)
			asked := p.calls()[0]
			require.Equal(t, test.method, asked.Method)
			require.Equal(t, test.path, asked.Path)
			query, err := url.ParseQuery(test.query)
			require.NoError(t, err)
			require.Equal(t, query, asked.Query)
			require.Equal(t, "Bearer t1", asked.Authorization)
			require.Equal(t, "application/json", asked.Header.Get("Accept"))
			if name, value, found := strings.Cut(test.header, ": "); found {
				require.Equal(t, value, asked.Header.Get(name))
			}
			switch {
			case strings.HasPrefix(test.body, "{"):
				require.JSONEq(t, test.body, asked.Body)
				require.Equal(t, "application/json", asked.Header.Get("Content-Type"))
			default:
				require.Equal(t, test.body, asked.Body)
			}
		})
	}
}

func TestEveryMethodSaysThatItFailed(t *testing.T) {
	t.Parallel()
	p := newProvider(t, failure(403, "FORBIDDEN"))
	client, _ := newClient(t, p, nil)
	ctx := t.Context()
	calls := map[string]func(id string) error{
		"get":           func(id string) error { _, err := client.Agents.Get(ctx, id); return err },
		"update":        func(id string) error { _, err := client.Agents.Update(ctx, id, AgentUpdate{}); return err },
		"decommission":  func(id string) error { return client.Agents.Decommission(ctx, id) },
		"generate":      func(id string) error { _, err := client.Credentials.Generate(ctx, id, time.Time{}); return err },
		"list secrets":  func(id string) error { _, err := client.Credentials.List(ctx, id, "", ListOptions{}); return err },
		"rotate":        func(id string) error { _, err := client.Credentials.Rotate(ctx, agentID, id, 0); return err },
		"revoke secret": func(id string) error { return client.Credentials.Revoke(ctx, agentID, id) },
		"event":         func(id string) error { _, err := client.Audit.Get(ctx, id); return err },
	}
	for name, call := range calls {
		require.Equal(t, CodeForbidden, CodeOf(call(agentID)), name)
		asked := len(p.calls())
		for _, id := range []string{"", ".", "../audit", "?", strings.ToUpper(agentID), agentID + "x", strings.Repeat("a", 36), strings.Replace(agentID, "-", "0", 1)} {
			require.ErrorContains(t, call(id), "is not an id", name)
		}
		require.Len(t, p.calls(), asked, "%s: an id that is none would ask for something else", name)
	}
	_, err := client.Introspect(ctx, "t")
	require.Equal(t, CodeForbidden, CodeOf(err))
}

func TestAllWalksThePagesByTheirCursors(t *testing.T) {
	t.Parallel()
	pages := []answer{
		{200, nil, `{"data":[{"agentId":"1","eventId":"1","credentialId":"1"},{"agentId":"2","eventId":"2","credentialId":"2"}],"nextCursor":"two"}`},
		{200, nil, `{"data":[],"nextCursor":"three"}`},
		{200, nil, `{"data":[{"agentId":"3","eventId":"3","credentialId":"3"}]}`},
	}
	walks := map[string]func(ctx context.Context, c *Client) ([]string, error){
		"agents": func(ctx context.Context, c *Client) (ids []string, err error) {
			for agent, err := range c.Agents.All(ctx, AgentFilter{}) {
				if err != nil {
					return ids, err
				}
				ids = append(ids, agent.ID)
			}
			return ids, nil
		},
		"credentials": func(ctx context.Context, c *Client) (ids []string, err error) {
			for credential, err := range c.Credentials.All(ctx, agentID, "") {
				if err != nil {
					return ids, err
				}
				ids = append(ids, credential.ID)
			}
			return ids, nil
		},
		"events": func(ctx context.Context, c *Client) (ids []string, err error) {
			for event, err := range c.Audit.All(ctx, AuditFilter{}) {
				if err != nil {
					return ids, err
				}
				ids = append(ids, event.ID)
			}
			return ids, nil
		},
	}
	for name, walk := range walks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProvider(t, pages...)
			client, _ := newClient(t, p, nil)
			ids, err := walk(t.Context(), client)
			require.NoError(t, err)
			require.Equal(t, []string{"1", "2", "3"}, ids)
			var cursors []string
			for _, call := range p.calls() {
				require.Equal(t, "100", call.Query.Get("limit"))
				cursors = append(cursors, call.Query.Get("cursor"))
			}
			require.Equal(t, []string{"", "two", "three"}, cursors)

			p = newProvider(t, pages[0], failure(403, "FORBIDDEN"))
			client, _ = newClient(t, p, nil)
			ids, err = walk(t.Context(), client)
			require.Equal(t, CodeForbidden, CodeOf(err))
			require.Equal(t, []string{"1", "2"}, ids)
		})
	}
}

func TestAWalkThatIsLeftAsksForNothingMore(t *testing.T) {
	t.Parallel()
	p := newProvider(t, answer{200, nil, `{"data":[{"agentId":"1"},{"agentId":"2"}],"nextCursor":"more"}`})
	client, _ := newClient(t, p, nil)
	for agent, err := range client.Agents.All(t.Context(), AgentFilter{}) {
		require.NoError(t, err)
		require.Equal(t, "1", agent.ID)
		break
	}
	require.Len(t, p.calls(), 1)
}

func TestRegistrationsGetDifferentKeys(t *testing.T) {
	t.Parallel()
	p := newProvider(t, answer{201, nil, agentJSON})
	client, _ := newClient(t, p, nil)
	for range 2 {
		_, err := client.Agents.Register(t.Context(), Registration{})
		require.NoError(t, err)
	}
	first, second := p.calls()[0].Header.Get("Idempotency-Key"), p.calls()[1].Header.Get("Idempotency-Key")
	require.NotEmpty(t, first)
	require.NotEqual(t, first, second)
}

func TestCodeOfFindsWrappedErrors(t *testing.T) {
	t.Parallel()
	require.Equal(t, CodeForbidden, CodeOf(errors.Join(errors.New("x"), &Error{Code: CodeForbidden})))
	require.Equal(t, CodeInvalidScope, CodeOf(&OAuthError{Code: CodeInvalidScope}))
	require.Empty(t, CodeOf(nil))
}
