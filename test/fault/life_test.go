package main

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/test/internal/rig"
)

// against is a worker of services that answer with these statuses, one after the other, and then with the last.
func against(t *testing.T, statuses ...int) *worker {
	t.Helper()
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(statuses[min(int(asked.Add(1)), len(statuses))-1])
		_, _ = w.Write([]byte("{}"))
	}))
	t.Cleanup(server.Close)
	here := []replica{{name: "one", address: strings.TrimPrefix(server.URL, "http://")}}
	replicas := map[string][]replica{"credentials": here, "registry": here, "token": here}
	return &worker{
		sender:   &sender{http: server.Client(), random: newRandom(1, 1), replicas: replicas},
		operator: rig.Client{ID: "operator"}, ledger: &ledger{}, think: func() time.Duration { return 0 },
	}
}

func someone() *member { return &member{id: "a", credentials: []*secret{{id: "c"}, {id: "d"}}} }

// of an event are these members, beside what all of them have.
func of(service, kind string, members map[string]any) event {
	all := want(service, "a", "operator", nil)
	maps.Copy(all, members)
	return event{action: kind, at: time.Now(), members: all}
}

// TestWhatWasDoneUnseenIsHeldAgainstItsEvent has a service that does a thing, is in trouble when it answers, and says that
// it is done already when it is asked again.
func TestWhatWasDoneUnseenIsHeldAgainstItsEvent(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func(w *worker, m *member) bool{
		"revoke": func(w *worker, m *member) bool { return w.revokeCredential(t.Context(), m) },
		"end":    func(w *worker, m *member) bool { return w.decommission(t.Context(), m) },
	} {
		w := against(t, http.StatusServiceUnavailable, http.StatusConflict)
		require.True(t, do(w, someone()), name)
		require.Empty(t, w.ledger.surprises, name)
		require.Len(t, w.ledger.actions, 1, name)
		a := w.ledger.actions[0]
		require.Equal(t, done, a.outcome, name)
		other := event{action: a.forms[0].kind, at: time.Now(), members: map[string]any{"agentId": "another"}}
		require.Contains(t, a.wrong([]event{other}, nil), "in truth", name)
	}
}

func TestAChangeIsWhatItsEventSaysUnlessItIsInDoubt(t *testing.T) {
	t.Parallel()
	change := func(kind string, from, to map[string]any) event {
		fields := []any{}
		for field := range to {
			fields = append(fields, field)
		}
		return of("registry", kind, map[string]any{"metadata": map[string]any{"changes": fields, "from": from, "to": to}})
	}
	status := func(status string) map[string]any { return map[string]any{"status": status} }
	suspended := change(agentSuspended, status("active"), status("suspended"))
	nothing := change(agentUpdated, map[string]any{}, map[string]any{})
	again := change(agentUpdated, status("active"), status("suspended"))
	backwards := change(agentSuspended, status("suspended"), status("active"))
	suspend := func(w *worker, m *member) []*action {
		require.True(t, w.patch(t.Context(), m, agentSuspended, "status", "active", "suspended"))
		return w.ledger.actions
	}
	sure := suspend(against(t, http.StatusOK), someone())
	require.Len(t, sure, 1)
	require.Empty(t, sure[0].wrong([]event{suspended}, nil))
	for _, wrong := range []event{nothing, again, backwards} {
		require.NotEmpty(t, sure[0].wrong([]event{wrong}, nil), wrong.members)
	}

	m := someone()
	doubted := suspend(against(t, http.StatusServiceUnavailable, http.StatusOK), m)
	require.Len(t, doubted, 2)
	for _, a := range append(doubted, suspend(against(t, http.StatusOK), m)...) {
		require.Empty(t, a.wrong([]event{suspended}, nil))
		require.Empty(t, a.wrong([]event{nothing}, nil), "an attempt before, or one after that overtook it, changed it")
		require.NotEmpty(t, a.wrong([]event{again}, nil))
		require.NotEmpty(t, a.wrong([]event{backwards}, nil))
	}
}

func TestARefusalHasTheReasonThatItsClientKnows(t *testing.T) {
	t.Parallel()
	failed := func(actor any, reason string) event {
		return of("token", authFailed, map[string]any{
			"actorId": actor, "outcome": "failure", "metadata": map[string]any{"reason": reason},
		})
	}
	issued := of("token", tokenIssued, map[string]any{"actorId": "a", "metadata": map[string]any{"scope": agentScopes}})
	suspended := map[int]string{http.StatusForbidden: "agent_suspended"}
	mistake := map[int]string{http.StatusUnauthorized: "invalid_secret"}
	for name, c := range map[string]struct {
		status       int
		allowed      map[int]string
		right, wrong []event
	}{
		"suspended":           {http.StatusForbidden, suspended, []event{failed("a", "agent_suspended")}, []event{failed("a", "quota_exceeded"), issued}},
		"a wrong secret":      {http.StatusUnauthorized, mistake, []event{failed(nil, "invalid_secret")}, []event{failed(nil, "agent_not_found"), failed("a", "invalid_secret"), issued}},
		"nobody knows":        {http.StatusServiceUnavailable, suspended, []event{failed("a", "agent_suspended"), issued}, []event{of("token", tokenRevoked, nil)}},
		"nobody knows, wrong": {http.StatusServiceUnavailable, mistake, []event{failed(nil, "invalid_secret")}, []event{failed(nil, "agent_not_found"), issued}},
	} {
		w := against(t, c.status)
		require.Empty(t, w.ask(t.Context(), "a", "s", agentScopes, c.allowed), name)
		require.Empty(t, w.ledger.surprises, name)
		for _, e := range c.right {
			require.Empty(t, w.ledger.actions[0].wrong([]event{e}, nil), name)
		}
		for _, e := range c.wrong {
			require.NotEmpty(t, w.ledger.actions[0].wrong([]event{e}, nil), name)
		}
	}
	w := against(t, http.StatusOK)
	w.mistake(t.Context(), someone())
	require.Len(t, w.ledger.surprises, 1, "a wrong secret gets a token")
}

func TestAnIntrospectionWithoutAnAnswerMayComeAfterTheRevocation(t *testing.T) {
	t.Parallel()
	w := against(t, http.StatusServiceUnavailable, http.StatusOK)
	w.introspect(t.Context(), &member{id: "a", tokens: []string{"t"}})
	require.Len(t, w.ledger.actions, 2)
	for active, outcomes := range map[bool][]string{true: {"", ""}, false: {"", "metadata.active is false in the event, and true in truth"}} {
		e := of("token", tokenIntrospected, map[string]any{"metadata": map[string]any{"jti": "", "active": active}})
		for i, a := range w.ledger.actions {
			require.Equal(t, outcomes[i], a.wrong([]event{e}, nil))
		}
	}
}
