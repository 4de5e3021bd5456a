package registryapi_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/registryapi"
)

var id = uuid.MustParse("0190a7c0-0000-4000-8000-00000000000a")

// caller answers one call and remembers what was sent.
type caller struct {
	answer string
	err    error

	method, path, sent string
}

func (c *caller) Do(_ context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	c.method, c.path, c.sent = method, path, string(body)
	if c.err != nil {
		return c.err
	}
	return json.Unmarshal([]byte(c.answer), out)
}

const agentJSON = `"agentId":"0190a7c0-0000-4000-8000-00000000000a","email":"a@example.com","agentType":"custom","version":"1.0.0",
	"capabilities":["operator:*"],"owner":"team-a","deploymentEnv":"production","allowedScopes":["agents:admin"],
	"allowedResources":["https://calendar.example.com/"],"status":"suspended",
	"registeredBy":null,"createdAt":"2026-11-22T12:00:00Z","updatedAt":"2026-11-22T12:00:01Z","revision":7,
	"tokensValidAfter":"2026-11-22T12:00:00.123Z","keys":{"jwksUri":"https://agent.example.com/jwks.json"}`

func agent() registryapi.Agent {
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	return registryapi.Agent{
		AgentID: id, Email: "a@example.com", AgentType: "custom", Version: "1.0.0", Capabilities: []string{"operator:*"},
		Owner: "team-a", DeploymentEnv: "production", AllowedScopes: []string{"agents:admin"},
		AllowedResources: []string{"https://calendar.example.com/"}, Status: registryapi.StatusSuspended,
		CreatedAt: at, UpdatedAt: at.Add(time.Second), Revision: 7, TokensValidAfter: at.Add(123 * time.Millisecond),
		Keys: &registryapi.AgentKeys{JWKSURI: "https://agent.example.com/jwks.json"},
	}
}

func TestAgent(t *testing.T) {
	t.Parallel()
	c := &caller{answer: `{"agents":[{` + agentJSON + `}]}`}
	got, err := registryapi.NewClient(c).Agent(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, agent(), got)
	require.Equal(t, "GET /agents?ids="+id.String(), c.method+" "+c.path)
	require.Equal(t, "null", c.sent)

	data, err := json.Marshal(registryapi.AgentsResponse{Agents: []registryapi.Agent{got}})
	require.NoError(t, err)
	require.JSONEq(t, c.answer, string(data), "both sides write the same")
}

func TestAgents(t *testing.T) {
	t.Parallel()
	other := uuid.New()
	c := &caller{answer: `{"agents":[{` + agentJSON + `}]}`}
	got, err := registryapi.NewClient(c).Agents(t.Context(), []uuid.UUID{other, id})
	require.NoError(t, err)
	require.Equal(t, map[uuid.UUID]registryapi.Agent{id: agent()}, got)
	require.Equal(t, "/agents?ids="+other.String()+","+id.String(), c.path)
}

func TestAnAgentThatIsMissingIsNotFoundAndNoAnswerIsNone(t *testing.T) {
	t.Parallel()
	for answer, code := range map[string]apperr.Code{
		`{"agents":[]}`: apperr.AgentNotFound, `{"agents":[{` + agentJSON + `}]}`: apperr.AgentNotFound,
		`{}`: apperr.ServiceUnavailable, `{"agents":null}`: apperr.ServiceUnavailable,
	} {
		got, err := registryapi.NewClient(&caller{answer: answer}).Agent(t.Context(), uuid.New())
		require.Equal(t, code, apperr.CodeOf(err), answer)
		require.Zero(t, got)
	}
	away := apperr.Unavailable(nil)
	_, err := registryapi.NewClient(&caller{err: away}).Agent(t.Context(), id)
	require.ErrorIs(t, err, away)
}

func TestCutoffs(t *testing.T) {
	t.Parallel()
	c := &caller{answer: `{"cutoffs":[{"agentId":"0190a7c0-0000-4000-8000-00000000000a","status":"suspended","revision":7,
		"tokensValidAfter":"2026-11-22T12:00:00.123Z"}]}`}
	since := time.Date(2026, 11, 22, 12, 0, 0, 5_000_000, time.FixedZone("", 3600))
	got, err := registryapi.NewClient(c).Cutoffs(t.Context(), since, id)
	require.NoError(t, err)
	require.Equal(t, []registryapi.Cutoff{{
		AgentID: id, Status: registryapi.StatusSuspended, Revision: 7, TokensValidAfter: agent().TokensValidAfter,
	}}, got)
	require.Equal(t, "GET /cutoffs?after="+id.String()+"&since=2026-11-22T11%3A00%3A00.005Z", c.method+" "+c.path)
	data, err := json.Marshal(registryapi.CutoffsResponse{Cutoffs: got})
	require.NoError(t, err)
	require.JSONEq(t, c.answer, string(data), "both sides write the same")

	for _, answer := range []string{`{}`, `{"cutoffs":null}`} {
		_, err = registryapi.NewClient(&caller{answer: answer}).Cutoffs(t.Context(), since, id)
		require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err), "no answer is not none")
	}
	none, err := registryapi.NewClient(&caller{answer: `{"cutoffs":[]}`}).Cutoffs(t.Context(), since, id)
	require.NoError(t, err)
	require.Empty(t, none)
	away := apperr.Unavailable(nil)
	_, err = registryapi.NewClient(&caller{err: away}).Cutoffs(t.Context(), since, id)
	require.ErrorIs(t, err, away)
}

func TestBootstrap(t *testing.T) {
	t.Parallel()
	for _, created := range []string{"true", "false"} {
		c := &caller{answer: `{"created":` + created + "," + agentJSON + "}"}
		got, isNew, err := registryapi.NewClient(c).Bootstrap(t.Context(), registryapi.BootstrapRequest{Email: "a@example.com", Owner: "team-a"})
		require.NoError(t, err)
		require.Equal(t, agent(), got)
		require.Equal(t, created == "true", isNew)
		require.Equal(t, "POST /bootstrap", c.method+" "+c.path)
		require.JSONEq(t, `{"email":"a@example.com","owner":"team-a"}`, c.sent)

		data, err := json.Marshal(registryapi.BootstrapResponse{Agent: got, Created: isNew})
		require.NoError(t, err)
		require.JSONEq(t, c.answer, string(data), "both sides write the same")
	}
	_, _, err := registryapi.NewClient(&caller{err: apperr.Unavailable(nil)}).Bootstrap(t.Context(), registryapi.BootstrapRequest{})
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
}
