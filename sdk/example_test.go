package agentidp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	agentidp "github.com/sentryagent/agentidp/sdk"
)

// provider stands for a running AgentIdP, so that the examples run anywhere.
func provider() *httptest.Server {
	answers := map[string]string{
		"POST /api/v1/token":  `{"access_token":"token","token_type":"Bearer","expires_in":3600,"scope":"agents:read"}`,
		"POST /api/v1/agents": `{"agentId":"0190c3a4-5b6d-7c11-8f0e-2f3b1d9a7c10","email":"screener@example.com","status":"active"}`,
		"POST /api/v1/agents/0190c3a4-5b6d-7c11-8f0e-2f3b1d9a7c10/credentials": `{"credentialId":"0190c3a4-5b6d-7c11-8f0e-2f3b1d9a7c11","clientSecret":"sk_live_0"}`,
		"GET /api/v1/audit": `{"data":[{"action":"token.issued"},{"action":"agent.created"}],"total":2,"page":1,"limit":100}`,
		"GET /resumes/7":    `a resume`,
	}
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		body, found := answers[r.Method+" "+r.URL.Path]
		if !found {
			w.WriteHeader(http.StatusNotFound)
			body = `{"code":"AGENT_NOT_FOUND","message":"Agent with the specified ID was not found."}`
		}
		_, _ = io.WriteString(w, body)
	}))
}

func client(baseURL string) *agentidp.Client {
	c, err := agentidp.New(agentidp.Config{
		BaseURL:      baseURL,
		ClientID:     "0190c3a4-0001-7a00-9d00-aa55aa55aa55",
		ClientSecret: "sk_live_...", // from a secret store, never from the source
		Scopes:       []string{"agents:read", "agents:write"},
	})
	if err != nil {
		log.Fatal(err)
	}
	return c
}

// An operator registers an agent and gives it a credential.
func Example() {
	server := provider()
	defer server.Close()
	idp, ctx := client(server.URL), context.Background()

	agent, err := idp.Agents.Register(ctx, agentidp.Registration{
		Email:         "screener@example.com",
		Type:          agentidp.Screener,
		Version:       "1.0.0",
		Capabilities:  []string{"resume:read"},
		Owner:         "talent",
		DeploymentEnv: agentidp.Production,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	credential, err := idp.Credentials.Generate(ctx, agent.ID, time.Time{}) // good for ever
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(agent.Status, credential.ID)
	fmt.Println("in a log the secret is", credential.Secret)
	fmt.Println("for the secret store it is", len(credential.Secret.Reveal()), "bytes")
	// Output:
	// active 0190c3a4-5b6d-7c11-8f0e-2f3b1d9a7c11
	// in a log the secret is [redacted]
	// for the secret store it is 9 bytes
}

// An agent calls an API of its own with its token.
func ExampleClient_HTTPClient() {
	server := provider()
	defer server.Close()
	ctx := context.Background()

	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/resumes/7", http.NoBody)
	if err != nil {
		fmt.Println(err)
		return
	}
	response, err := client(server.URL).HTTPClient(ctx).Do(request)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	fmt.Println(string(body), err)
	// Output: a resume <nil>
}

// A walk through the audit trail of one agent.
func ExampleAudit_All() {
	server := provider()
	defer server.Close()

	filter := agentidp.AuditFilter{AgentID: "0190c3a4-5b6d-7c11-8f0e-2f3b1d9a7c10"}
	for event, err := range client(server.URL).Audit.All(context.Background(), filter) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(event.Action)
	}
	// Output:
	// token.issued
	// agent.created
}

// Errors have a code to decide by and, where fields are wrong, their names.
func ExampleCodeOf() {
	server := provider()
	defer server.Close()

	_, err := client(server.URL).Agents.Get(context.Background(), "0190c3a4-ffff-7fff-8fff-ffffffffffff")
	if agentidp.CodeOf(err) == agentidp.CodeAgentNotFound {
		fmt.Println("no such agent")
	}
	var refused *agentidp.Error
	fmt.Println(errors.As(err, &refused), refused.Status, strings.ToLower(refused.Message))
	// Output:
	// no such agent
	// true 404 agent with the specified id was not found.
}
