package httpapi_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

func TestARegisteredAgentIsAnsweredAndCanBeRead(t *testing.T) {
	t.Parallel()
	b := setup(t)
	email := "Screener-01@Agents.example.com"
	got := b.register(t, operator, fields{
		"email": email, "capabilities": []string{"resume:read", "calendar:*", "a:b"},
		"allowedScopes": []string{"tokens:read", "agents:read"}, "allowedResources": []string{"https://b.example/", "urn:example:a"},
	})

	body := got.json()
	id := got.id()
	parsed, err := uuid.Parse(id)
	require.NoError(t, err)
	require.Equal(t, id, parsed.String())
	require.Equal(t, agentsPath+"/"+id, got.Header().Get("Location"))
	require.Equal(t, `"1"`, got.Header().Get("ETag"))
	require.Equal(t, "application/json", got.Header().Get("Content-Type"))
	at := b.clock.Now().UTC().Truncate(time.Microsecond).Format(time.RFC3339Nano)
	require.Equal(t, map[string]any{
		"agentId": id, "email": email, "agentType": "screener", "version": "1.4.0",
		"capabilities": []any{"resume:read", "calendar:*", "a:b"}, "owner": "talent-team", "deploymentEnv": "production",
		"allowedScopes":    []any{"tokens:read", "agents:read"},
		"allowedResources": []any{"https://b.example/", "urn:example:a"}, "status": "active", "registeredBy": operator.id.String(),
		"createdAt": at, "updatedAt": at,
	}, body)

	read := b.call(t, operator, http.MethodGet, agentsPath+"/"+id, "").requireStatus(http.StatusOK)
	require.Equal(t, body, read.json())
	require.Equal(t, `"1"`, read.Header().Get("ETag"))
}

func TestScopesNotAskedForAreThoseOfTheTokenWithoutAdmin(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.Equal(t, []any{"agents:read", "agents:write", "tokens:read", "audit:read"},
		b.register(t, operator, nil).json()["allowedScopes"])
	require.Equal(t, []any{"agents:write", "audit:read"},
		b.register(t, as("x", "agents:write resume:read audit:read"), nil).json()["allowedScopes"])
	require.Equal(t, []any{}, b.register(t, operator, fields{"allowedScopes": []string{}}).json()["allowedScopes"])
}

func TestAnAgentHasNoResourcesUnlessItIsGivenSome(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.register(t, operator, nil)
	require.Equal(t, []any{}, first.json()["allowedResources"])
	path := agentsPath + "/" + first.id()
	changed := b.call(t, operator, http.MethodPatch, path, `{"allowedResources":["https://api.example.com/"]}`).requireStatus(http.StatusOK)
	require.Equal(t, []any{"https://api.example.com/"}, changed.json()["allowedResources"])
	listed := b.call(t, operator, http.MethodGet, agentsPath, "").requireStatus(http.StatusOK).json()
	require.Equal(t, []any{"https://api.example.com/"}, listed["data"].([]any)[0].(map[string]any)["allowedResources"])
	changed = b.call(t, operator, http.MethodPatch, path, `{"allowedResources":[]}`).requireStatus(http.StatusOK)
	require.Equal(t, []any{}, changed.json()["allowedResources"])
}

func TestNobodyGivesScopesThatItDoesNotHave(t *testing.T) {
	t.Parallel()
	b := setup(t)
	writer := as("talent-team", "agents:write agents:read")
	details := b.call(t, writer, http.MethodPost, agentsPath,
		registration(fields{"allowedScopes": []string{"agents:read", "audit:read"}})).requireError(apperr.Forbidden)
	require.Contains(t, details["reason"], "audit:read")
	b.call(t, writer, http.MethodPost, agentsPath, registration(fields{"allowedScopes": []string{"agents:admin"}})).
		requireError(apperr.Forbidden)

	id := b.register(t, writer, fields{"allowedScopes": []string{"agents:read"}}).id()
	details = b.call(t, writer, http.MethodPatch, agentsPath+"/"+id, `{"allowedScopes":["tokens:read"]}`).
		requireError(apperr.Forbidden)
	require.Contains(t, details["reason"], "tokens:read")
	b.call(t, writer, http.MethodPatch, agentsPath+"/"+id, `{"allowedScopes":["agents:write"]}`).requireStatus(http.StatusOK)
	b.call(t, operator, http.MethodPatch, agentsPath+"/"+id, `{"allowedScopes":["agents:admin"]}`).requireStatus(http.StatusOK)
}

func TestWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	b := setup(t)
	registrar := as("other-team", "agents:write")
	id := b.register(t, registrar, fields{"owner": "talent-team"}).id()
	itself := caller{id: uuid.MustParse(id), owner: "talent-team", scopes: "agents:write"}

	tests := map[string]struct {
		caller caller
		method string
		path   string
		status int
		scope  string
	}{
		"reading needs agents:read":          {as("x", "agents:write tokens:read audit:read"), "GET", "/" + id, 403, "agents:read"},
		"listing needs agents:read":          {as("x", "agents:write"), "GET", "", 403, "agents:read"},
		"registering needs agents:write":     {as("x", "agents:read"), "POST", "", 403, "agents:write"},
		"changing needs agents:write":        {as("talent-team", "agents:read"), "PATCH", "/" + id, 403, "agents:write"},
		"ending needs agents:write":          {as("talent-team", "agents:read"), "DELETE", "/" + id, 403, "agents:write"},
		"changing a stranger's is denied":    {as("stranger", "agents:write"), "PATCH", "/" + id, 403, ""},
		"ending a stranger's is denied":      {as("stranger", "agents:write"), "DELETE", "/" + id, 403, ""},
		"a reader reads":                     {as("stranger", "agents:read"), "GET", "/" + id, 200, ""},
		"a reader lists":                     {as("stranger", "agents:read"), "GET", "", 200, ""},
		"who registered it changes it":       {registrar, "PATCH", "/" + id, 200, ""},
		"the same owner changes it":          {as("talent-team", "agents:write"), "PATCH", "/" + id, 200, ""},
		"the agent changes itself":           {itself, "PATCH", "/" + id, 200, ""},
		"an operator changes it":             {operator, "PATCH", "/" + id, 200, ""},
		"what is not there is 404 to change": {as("stranger", "agents:write"), "PATCH", "/" + uuid.NewString(), 404, ""},
		"what is not there is 404 to end":    {as("stranger", "agents:write"), "DELETE", "/" + uuid.NewString(), 404, ""},
		"what is not there is 404 to read":   {as("stranger", "agents:read"), "GET", "/" + uuid.NewString(), 404, ""},
		"a scope comes before what is there": {as("stranger", "tokens:read"), "GET", "/" + uuid.NewString(), 403, "agents:read"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := ""
			if tt.method == http.MethodPatch {
				body = `{"version":"1.5.0"}`
			}
			got := b.call(t, tt.caller, tt.method, agentsPath+tt.path, body).requireStatus(tt.status)
			switch tt.status {
			case 403:
				require.NotEmpty(t, got.requireError(apperr.Forbidden)["reason"])
				if challenge := got.Header().Get("WWW-Authenticate"); tt.scope == "" {
					require.Empty(t, challenge)
				} else {
					require.Contains(t, challenge, `error="insufficient_scope", scope="`+tt.scope+`"`)
				}
			case 404:
				got.requireError(apperr.AgentNotFound)
			}
		})
	}
}

func TestWithoutAGoodTokenNothingIsAnswered(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, authorization := range []string{"", "Bearer", "Bearer x.y.z", "Basic Og==", "Bearer " + internalToken} {
		headers := []string{"Authorization", authorization}
		if authorization == "" {
			headers = nil
		}
		for _, target := range []string{agentsPath, agentsPath + "/not-a-uuid"} {
			got := b.send(t, b.server.PublicHandler(), http.MethodGet, target, "", headers...)
			got.requireError(apperr.Unauthorized)
			require.True(t, strings.HasPrefix(got.Header().Get("WWW-Authenticate"), "Bearer "))
		}
	}
}

func TestTheRateLimitIsShownAndHolds(t *testing.T) {
	t.Parallel()
	b := setupWith(t, options{maxAgents: 10, rateLimit: 3})
	for _, remaining := range []string{"2", "1", "0"} {
		got := b.call(t, operator, http.MethodGet, agentsPath+"/"+uuid.NewString(), "")
		got.requireError(apperr.AgentNotFound)
		require.Equal(t, "3", got.Header().Get("X-RateLimit-Limit"))
		require.Equal(t, remaining, got.Header().Get("X-RateLimit-Remaining"))
		require.NotEmpty(t, got.Header().Get("X-RateLimit-Reset"))
	}
	refused := b.call(t, operator, http.MethodPost, agentsPath, registration(nil))
	refused.requireError(apperr.RateLimitExceeded)
	require.NotEmpty(t, refused.Header().Get("Retry-After"))
	require.Equal(t, 0, b.count(t, "SELECT count(*) FROM registry.agents"))
	b.call(t, as("another", "agents:read"), http.MethodGet, agentsPath, "").requireStatus(http.StatusOK)
}

func TestAnAddressCanBeRegisteredOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.register(t, operator, fields{"email": "Same@Example.com"}).id()
	b.call(t, operator, http.MethodPost, agentsPath, registration(fields{"email": "sAME@eXAMPLE.COM"})).
		requireError(apperr.AgentAlreadyExists)
	b.call(t, operator, http.MethodDelete, agentsPath+"/"+id, "").requireStatus(http.StatusNoContent)
	b.call(t, operator, http.MethodPost, agentsPath, registration(fields{"email": "same@example.com"})).
		requireError(apperr.AgentAlreadyExists)
}

func TestTheLimitOfAgentsIsExact(t *testing.T) {
	t.Parallel()
	const limit, attempts = 100, 200
	b := setupWith(t, options{maxAgents: limit})
	b.callInternal(t, http.MethodPost, "/internal/v1/bootstrap", `{"email":"o@example.com","owner":"platform"}`).
		requireStatus(http.StatusCreated)
	token := "Bearer " + operator.token(t)

	answers := make([]answer, attempts)
	var group sync.WaitGroup
	for i := range attempts {
		group.Go(func() {
			answers[i] = b.send(t, b.server.PublicHandler(), http.MethodPost, agentsPath, registration(nil), "Authorization", token)
		})
	}
	group.Wait()
	created := 0
	for _, got := range answers {
		if got.Code == http.StatusCreated {
			created++
			continue
		}
		require.EqualValues(t, limit, got.requireError(apperr.FreeTierLimitExceeded)["limit"])
		require.Equal(t, http.StatusForbidden, got.Code)
	}
	require.Equal(t, limit-1, created, "the operator counts as well")
	require.Equal(t, limit, b.count(t, "SELECT count(*) FROM registry.agents"))
}

func TestAnIdempotencyKeyMakesARegistrationRepeatable(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := strings.Repeat("!~", 127) + "k"
	body := `{"email":"once@example.com","agentType":"router","version":"1.0.0","capabilities":["a:b"],"owner":"x","deploymentEnv":"staging"}`
	first := b.call(t, operator, http.MethodPost, agentsPath, body, "Idempotency-Key", key).requireStatus(http.StatusCreated)
	b.call(t, operator, http.MethodPatch, agentsPath+"/"+first.id(), `{"version":"2.0.0"}`).requireStatus(http.StatusOK)

	reordered := `{ "deploymentEnv":"staging", "owner":"x", "capabilities":["a:b"], "version":"1.0.0", "agentType":"router", "email":"once\u0040example.com" }`
	again := b.call(t, operator, http.MethodPost, agentsPath, reordered, "Idempotency-Key", key).requireStatus(http.StatusCreated)
	require.Equal(t, first.json(), again.json(), "the first result, not what became of it")
	require.Equal(t, first.Header().Get("Location"), again.Header().Get("Location"))
	require.Equal(t, first.Header().Get("ETag"), again.Header().Get("ETag"))

	b.call(t, operator, http.MethodPost, agentsPath, registration(nil), "Idempotency-Key", key).
		requireError(apperr.IdempotencyKeyReused)
	b.call(t, as("x", "agents:write"), http.MethodPost, agentsPath, body, "Idempotency-Key", key).
		requireError(apperr.AgentAlreadyExists)

	b.clock.Advance(24 * time.Hour)
	b.call(t, operator, http.MethodPost, agentsPath, registration(nil), "Idempotency-Key", key).requireStatus(http.StatusCreated)
}

func TestParallelRepeatsAreAnsweredWithOneAgent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	body := registration(nil)
	token := "Bearer " + operator.token(t)
	ids := make([]string, 16)
	var group sync.WaitGroup
	for i := range ids {
		group.Go(func() {
			got := b.send(t, b.server.PublicHandler(), http.MethodPost, agentsPath, body, "Authorization", token, "Idempotency-Key", "k")
			if assert.Equal(t, http.StatusCreated, got.Code, got.Body.String()) {
				ids[i] = got.id()
			}
		})
	}
	group.Wait()
	for _, id := range ids {
		require.Equal(t, ids[0], id)
	}
	require.Equal(t, 1, b.count(t, "SELECT count(*) FROM registry.agents"))
}

func TestAChangeIsAnsweredWithTheAgentAsItIsThen(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.register(t, operator, nil)
	got := b.call(t, operator, http.MethodPatch, agentsPath+"/"+first.id(), encode(fields{
		"agentType": "custom", "version": "2.0.0", "capabilities": []string{"z:z", "a:a"}, "owner": "new owner",
		"deploymentEnv": "development", "allowedScopes": []string{"audit:read"}, "status": "suspended",
		"allowedResources": []string{"https://api.example.com/"},
	})).requireStatus(http.StatusOK)

	want := first.json()
	updatedAt, _ := got.json()["updatedAt"].(string)
	changed, err := time.Parse(time.RFC3339Nano, updatedAt)
	require.NoError(t, err)
	require.Equal(t, changed.UTC().Truncate(time.Microsecond).Format(time.RFC3339Nano), updatedAt)
	require.NotEqual(t, want["updatedAt"], updatedAt, "it is of the moment of the change")
	for name, value := range map[string]any{
		"agentType": "custom", "version": "2.0.0", "capabilities": []any{"z:z", "a:a"}, "owner": "new owner",
		"deploymentEnv": "development", "allowedScopes": []any{"audit:read"}, "status": "suspended",
		"allowedResources": []any{"https://api.example.com/"},
		"updatedAt":        updatedAt,
	} {
		want[name] = value
	}
	require.Equal(t, want, got.json())
	require.Equal(t, `"2"`, got.Header().Get("ETag"))
	read := b.call(t, operator, http.MethodGet, agentsPath+"/"+first.id(), "")
	require.Equal(t, want, read.json())
	require.Equal(t, `"2"`, read.Header().Get("ETag"))
}

func TestIfMatchGuardsChangesAndEnds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	path := agentsPath + "/" + b.register(t, operator, nil).id()
	change := func(headers ...string) answer {
		return b.call(t, operator, http.MethodPatch, path, `{"version":"1.5.0"}`, headers...)
	}
	for _, tag := range []string{`"0"`, `W/"1"`, `1`, `"1`, ``, `"11"`} {
		change("If-Match", tag).requireError(apperr.PreconditionFailed)
		b.call(t, operator, http.MethodDelete, path, "", "If-Match", tag).requireError(apperr.PreconditionFailed)
	}
	require.Equal(t, `"2"`, change("If-Match", `"1"`).requireStatus(http.StatusOK).Header().Get("ETag"))
	change("If-Match", `"1"`).requireError(apperr.PreconditionFailed)
	change("If-Match", `"1", "2"`).requireStatus(http.StatusOK)
	change("If-Match", `"1"`, "If-Match", `"3"`).requireStatus(http.StatusOK)
	change("If-Match", `*`).requireStatus(http.StatusOK)
	change().requireStatus(http.StatusOK)
	b.call(t, operator, http.MethodDelete, path, "", "If-Match", `"6"`).requireStatus(http.StatusNoContent)
	change("If-Match", `"1"`).requireError(apperr.AgentAlreadyDecommissioned)
	b.call(t, operator, http.MethodPatch, agentsPath+"/"+uuid.NewString(), `{"version":"1.5.0"}`, "If-Match", "*").
		requireError(apperr.AgentNotFound)
}

func TestOneOfTwoThatChangeTheSameRevisionLoses(t *testing.T) {
	t.Parallel()
	b := setup(t)
	path := agentsPath + "/" + b.register(t, operator, nil).id()
	codes := make([]int, 8)
	var group sync.WaitGroup
	for i := range codes {
		group.Go(func() {
			codes[i] = b.call(t, operator, http.MethodPatch, path, fmt.Sprintf(`{"owner":"owner-%d"}`, i), "If-Match", `"1"`).Code
		})
	}
	group.Wait()
	won := 0
	for _, code := range codes {
		if code == http.StatusOK {
			won++
			continue
		}
		require.Equal(t, http.StatusPreconditionFailed, code)
	}
	require.Equal(t, 1, won)
}

func TestADecommissionedAgentStaysReadableAndIsNotChanged(t *testing.T) {
	t.Parallel()
	b := setup(t)
	path := agentsPath + "/" + b.register(t, operator, nil).id()
	gone := b.call(t, operator, http.MethodDelete, path, "").requireStatus(http.StatusNoContent)
	require.Empty(t, gone.Body.String())
	b.call(t, operator, http.MethodDelete, path, "").requireError(apperr.AgentAlreadyDecommissioned)
	b.call(t, operator, http.MethodPatch, path, `{"status":"active"}`).requireError(apperr.AgentAlreadyDecommissioned)
	require.Equal(t, "decommissioned",
		b.call(t, operator, http.MethodGet, path, "").requireStatus(http.StatusOK).json()["status"])
}

func TestSuspendingRefusesTheAgentsTokensAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	path := agentsPath + "/" + b.register(t, operator, nil).id()
	itself := caller{id: uuid.MustParse(strings.TrimPrefix(path, agentsPath+"/")), owner: "talent-team", scopes: "agents:read"}
	old := "Bearer " + itself.token(t)
	use := func(token string) answer {
		return b.send(t, b.server.PublicHandler(), http.MethodGet, path, "", "Authorization", token)
	}
	use(old).requireStatus(http.StatusOK)

	b.call(t, operator, http.MethodPatch, path, `{"status":"suspended"}`).requireStatus(http.StatusOK)
	use(old).requireError(apperr.Unauthorized)
	b.call(t, operator, http.MethodPatch, path, `{"status":"active"}`).requireStatus(http.StatusOK)
	use(old).requireError(apperr.Unauthorized)
	require.Eventually(t, func() bool { return use("Bearer "+itself.token(t)).Code == http.StatusOK },
		5*time.Second, time.Millisecond, "a token from after the reactivation is good")

	later := "Bearer " + itself.token(t)
	b.call(t, operator, http.MethodDelete, path, "").requireStatus(http.StatusNoContent)
	use(later).requireError(apperr.Unauthorized)
}

func TestEveryActionLeavesOneAuditEvent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.register(t, operator, nil).id()
	path := agentsPath + "/" + id
	b.call(t, operator, http.MethodPatch, path, `{"version":"9.0.0"}`, "User-Agent", "curl/8").requireStatus(http.StatusOK)
	b.call(t, operator, http.MethodPatch, path, `{"status":"suspended"}`).requireStatus(http.StatusOK)
	b.call(t, operator, http.MethodPatch, path, `{"status":"active"}`).requireStatus(http.StatusOK)
	b.call(t, operator, http.MethodPatch, path, `{"email":"x@example.com"}`).requireError(apperr.ValidationError)
	b.call(t, operator, http.MethodDelete, path, "", "X-Request-ID", "the-last").requireStatus(http.StatusNoContent)
	b.call(t, operator, http.MethodDelete, path, "").requireError(apperr.AgentAlreadyDecommissioned)

	rows, err := b.db.Query(t.Context(), "SELECT payload FROM registry.outbox WHERE subject LIKE 'audit.%' ORDER BY position")
	require.NoError(t, err)
	defer rows.Close()
	var actions []auditevent.Action
	var last auditevent.Event
	for rows.Next() {
		var payload []byte
		require.NoError(t, rows.Scan(&payload))
		last = testkit.Event(t, payload)
		require.Equal(t, id, last.AgentID.String())
		require.Equal(t, operator.id, *last.ActorID)
		actions = append(actions, last.Action)
	}
	require.NoError(t, rows.Err())
	require.Equal(t, []auditevent.Action{
		auditevent.AgentCreated, auditevent.AgentUpdated, auditevent.AgentSuspended, auditevent.AgentReactivated,
		auditevent.AgentDecommissioned,
	}, actions)
	require.Equal(t, "the-last", last.RequestID)
	require.Equal(t, 4, b.count(t, "SELECT count(*) FROM registry.outbox WHERE subject LIKE 'lifecycle.agent.%'"))
}

func TestPolicyIsAskedAgainWhenTheOwnerChangesUnderARequest(t *testing.T) {
	t.Parallel()
	b := setup(t)
	path := agentsPath + "/" + b.register(t, operator, fields{"owner": "team-a"}).id()
	teamA := as("team-a", "agents:write")
	const rounds = 12
	for range rounds {
		b.call(t, operator, http.MethodPatch, path, `{"owner":"team-a"}`).requireStatus(http.StatusOK)
		var group sync.WaitGroup
		var moved, changed answer
		group.Go(func() { moved = b.call(t, operator, http.MethodPatch, path, `{"owner":"team-b","version":"7.0.0"}`) })
		group.Go(func() { changed = b.call(t, teamA, http.MethodPatch, path, `{"version":"6.6.6"}`) })
		group.Wait()
		moved.requireStatus(http.StatusOK)
		if changed.Code != http.StatusForbidden {
			require.Equal(t, "team-a", changed.requireStatus(http.StatusOK).json()["owner"], "changed only while it was allowed")
		}
	}
}

func TestPolicyIsAskedAgainWithTheScopesThatAreToBeGiven(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "p.rego"), []byte(`package agentidp.authz
default reason := "team-b is given no scopes"
default allow := false
allow if not refused
refused if {
	input.resource.owner == "team-b"
	input.resource.allowedScopes
}
`), 0o600))
	b := setupWith(t, options{maxAgents: 10, policy: dir})
	path := agentsPath + "/" + b.register(t, operator, fields{"owner": "team-a"}).id()
	var group sync.WaitGroup
	var changed answer
	require.NoError(t, b.db.WithTx(t.Context(), func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "UPDATE registry.agents SET owner = 'team-b'")
		require.NoError(t, err)
		group.Go(func() { changed = b.call(t, operator, http.MethodPatch, path, `{"allowedScopes":["agents:read"]}`) })
		testkit.AwaitLock(t, b.db)
		return err
	}))
	group.Wait()
	require.Equal(t, "team-b is given no scopes", changed.requireError(apperr.Forbidden)["reason"])
}

func TestOperatorsAreNotForTheirColleaguesToChange(t *testing.T) {
	t.Parallel()
	b := setup(t)
	path := b.register(t, operator, fields{"owner": "platform", "allowedScopes": []string{"agents:admin"}}).Header().Get("Location")
	own := agentsPath + "/" + b.register(t, operator, fields{"owner": "elsewhere"}).id()
	colleague := caller{id: uuid.MustParse(strings.TrimPrefix(own, agentsPath+"/")), owner: "elsewhere", scopes: "agents:read agents:write tokens:read audit:read"}
	b.call(t, colleague, http.MethodPatch, own, `{"owner":"platform"}`).requireStatus(http.StatusOK)
	colleague.owner = "platform"

	itself := caller{id: uuid.MustParse(strings.TrimPrefix(path, agentsPath+"/")), owner: "platform", scopes: "agents:write"}
	requests := []struct{ method, path, body string }{
		{http.MethodPatch, path, `{"allowedScopes":[]}`},
		{http.MethodPatch, path, `{"status":"suspended"}`},
		{http.MethodPatch, path, `{"version":"2.0.0"}`},
		{http.MethodPut, path + "/keys", keysURI},
		{http.MethodDelete, path + "/keys", ""},
		{http.MethodDelete, path, ""},
	}
	for _, r := range requests {
		details := b.call(t, colleague, r.method, r.path, r.body).requireError(apperr.Forbidden)
		require.Contains(t, details["reason"], "agents:admin", "%s %s", r.method, r.body)
	}
	require.Equal(t, `"1"`, b.call(t, colleague, http.MethodGet, path, "").requireStatus(http.StatusOK).Header().Get("ETag"))
	for _, c := range []caller{itself, operator} {
		for _, r := range requests[2:5] {
			b.call(t, c, r.method, r.path, r.body)
		}
	}
	require.Equal(t, `"7"`, b.call(t, operator, http.MethodGet, path, "").Header().Get("ETag"))
}

func TestPolicyIsAskedAgainWhenTheAgentBecomesAnOperatorUnderARequest(t *testing.T) {
	t.Parallel()
	b := setup(t)
	path := b.register(t, operator, fields{"owner": "platform"}).Header().Get("Location")
	colleague := as("platform", "agents:write")
	const rounds = 8
	for _, r := range []struct{ method, path, body string }{
		{http.MethodPut, path + "/keys", keysURI},
		{http.MethodPatch, path, `{"version":"6.6.6"}`},
	} {
		for range rounds {
			b.call(t, operator, http.MethodPatch, path, `{"allowedScopes":[]}`).requireStatus(http.StatusOK)
			var group sync.WaitGroup
			var promoted, changed answer
			group.Go(func() { promoted = b.call(t, operator, http.MethodPatch, path, `{"allowedScopes":["agents:admin"]}`) })
			group.Go(func() { changed = b.call(t, colleague, r.method, r.path, r.body) })
			group.Wait()
			promoted.requireStatus(http.StatusOK)
			if changed.Code == http.StatusOK {
				require.Less(t, changed.revision(), promoted.revision(), "changed only while it was allowed")
			} else {
				changed.requireError(apperr.Forbidden)
			}
		}
	}
}

func TestNoTokenIsAcceptedUncheckedWhenRedisHasForgotten(t *testing.T) {
	t.Parallel()
	b := setupWith(t, options{tokenService: apperr.Unavailable(nil)})
	require.NoError(t, b.redis.Del(t.Context(), b.redis.Keys(t.Context(), b.redis.Key("*")).Val()...).Err())
	hydrated, err := revocation.NewStore(b.redis).Hydrated(t.Context())
	require.NoError(t, err)
	require.False(t, hydrated)
	b.call(t, operator, http.MethodGet, agentsPath, "").requireError(apperr.ServiceUnavailable)
}
