package agent_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/lifecycle"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/registry/internal/agent"
)

type bundle struct {
	registry *agent.Registry
	store    *fakeStore
	cutoffs  *fakeCutoffs
	now      time.Time     // by the store's clock
	ahead    time.Duration // how much the replica's clock is ahead of it
	outcomes []string
}

var (
	start  = time.Date(2026, 11, 22, 9, 30, 0, 123456789, time.FixedZone("CET", 3600))
	caller = uuid.MustParse("019aa9bf-10aa-7d11-8a53-0c3b1f6f2e90")
)

func setup(t *testing.T) *bundle {
	t.Helper()
	b := &bundle{store: &fakeStore{agents: map[uuid.UUID]agent.Agent{}, keys: map[uuid.UUID]agent.Keys{}}, cutoffs: &fakeCutoffs{}, now: start}
	b.store.clock = func() time.Time { return b.now }
	b.registry = agent.New(agent.Options{
		Store: b.store, Cutoffs: b.cutoffs, MaxAgents: 100,
		Clock: func() time.Time { return b.now.Add(b.ahead) }, NewID: uuid.New, Log: slog.New(slog.DiscardHandler),
		Registered: func(outcome string) { b.outcomes = append(b.outcomes, outcome) },
	})
	return b
}

func (b *bundle) register(t *testing.T) agent.Agent {
	t.Helper()
	registered, err := b.registry.Register(t.Context(), agent.Registration{
		Attributes: given(), Caller: agent.Caller{ID: caller, Origin: origin()},
	})
	require.NoError(t, err)
	b.store.messages = nil
	return registered
}

func origin() auditevent.Origin {
	return auditevent.Origin{ActorID: ref(caller), IPAddress: "192.0.2.7", UserAgent: "tests", RequestID: "req-1"}
}

func permitted() agent.Demand {
	return agent.Demand{Permit: func(agent.Agent) error { return nil }, Origin: origin()}
}

func auditEvents(t *testing.T, messages []outbox.Message) []auditevent.Event {
	t.Helper()
	var events []auditevent.Event
	for _, message := range messages {
		if strings.HasPrefix(message.Subject, "audit.") {
			event := testkit.Event(t, message.Payload)
			require.Equal(t, event.EventID, message.ID)
			events = append(events, event)
		}
	}
	return events
}

func TestARegistrationMakesAnActiveAgent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	registered, err := b.registry.Register(t.Context(), agent.Registration{
		Attributes: given(), Caller: agent.Caller{ID: caller, Scopes: []string{"agents:admin"}, Origin: origin()},
	})
	require.NoError(t, err)

	at := time.Date(2026, 11, 22, 8, 30, 0, 123456000, time.UTC)
	require.Equal(t, agent.Agent{
		ID: registered.ID, Email: "screener-01@agents.example.com", Type: "screener", Version: "1.4.0",
		Capabilities: []string{"resume:read", "calendar:*"}, Owner: "talent-team", DeploymentEnv: "production",
		AllowedScopes: []string{"agents:read"}, AllowedResources: []string{}, Status: agent.Active, RegisteredBy: ref(caller),
		CreatedAt: at, UpdatedAt: at, Revision: 1,
	}, registered)
	require.Equal(t, int64(100), b.store.entries[0].Limit)
	require.Nil(t, b.store.entries[0].Key)
	require.Equal(t, []string{agent.OutcomeSuccess}, b.outcomes)

	events := auditEvents(t, b.store.messages)
	require.Len(t, events, 1)
	require.Equal(t, auditevent.AgentCreated, events[0].Action)
	require.Equal(t, registered.ID, *events[0].AgentID)
	require.Equal(t, caller, *events[0].ActorID)
	require.Equal(t, "192.0.2.7", events[0].IPAddress)
	require.Equal(t, at, events[0].Timestamp)
	require.Equal(t, "screener-01@agents.example.com", events[0].Metadata["email"])
	require.Equal(t, "audit.registry.agent.created", b.store.messages[0].Subject)
	require.Empty(t, b.cutoffs.told, "a new agent has no tokens to cut off")
}

func TestScopesThatAreNotGivenAreTheCallersWithoutAdmin(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		caller []string
		want   []string
	}{
		"those of the token, in its order":           {[]string{"audit:read", "agents:write"}, []string{"audit:read", "agents:write"}},
		"scopes of the user's own APIs do not count": {[]string{"agents:write", "resume:read"}, []string{"agents:write"}},
		"admin gives all the others": {
			[]string{"agents:admin"}, []string{"agents:read", "agents:write", "tokens:read", "audit:read"},
		},
		"none": {nil, []string{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			attributes := given()
			attributes.AllowedScopes = nil
			registered, err := b.registry.Register(t.Context(), agent.Registration{
				Attributes: attributes, Caller: agent.Caller{ID: caller, Scopes: tt.caller},
			})
			require.NoError(t, err)
			require.Equal(t, tt.want, registered.AllowedScopes)
		})
	}
}

func TestNoScopesCanBeAskedFor(t *testing.T) {
	t.Parallel()
	b := setup(t)
	attributes := given()
	attributes.AllowedScopes = ref([]string{})
	registered, err := b.registry.Register(t.Context(), agent.Registration{
		Attributes: attributes, Caller: agent.Caller{ID: caller, Scopes: []string{"agents:write"}},
	})
	require.NoError(t, err)
	require.Equal(t, []string{}, registered.AllowedScopes, "empty, not null, and not the default")
}

func TestAnIdempotencyKeyGoesWithTheRegistration(t *testing.T) {
	t.Parallel()
	b := setup(t)
	register := func(attributes agent.Attributes) *agent.IdempotencyKey {
		_, err := b.registry.Register(t.Context(), agent.Registration{
			Attributes: attributes, Caller: agent.Caller{ID: caller}, IdempotencyKey: "key",
		})
		require.NoError(t, err)
		return b.store.entries[len(b.store.entries)-1].Key
	}
	first, same := register(given()), register(given())
	require.Equal(t, caller, first.Caller)
	require.Equal(t, "key", first.Key)
	require.Equal(t, first.Now.Add(24*time.Hour), first.ExpiresAt)
	require.Equal(t, first.Fingerprint, same.Fingerprint)

	for name, change := range map[string]func(*agent.Attributes){
		"another address":              func(a *agent.Attributes) { a.Email = ref("SCREENER-01@agents.example.com") },
		"another order":                func(a *agent.Attributes) { a.Capabilities = ref([]string{"calendar:*", "resume:read"}) },
		"no scopes instead of default": func(a *agent.Attributes) { a.AllowedScopes = nil },
		"empty scopes":                 func(a *agent.Attributes) { a.AllowedScopes = ref([]string{}) },
		"another owner":                func(a *agent.Attributes) { a.Owner = ref("x") },
		"a resource":                   func(a *agent.Attributes) { a.AllowedResources = ref([]string{"https://a.example/"}) },
		"an empty list of resources":   func(a *agent.Attributes) { a.AllowedResources = ref([]string{}) },
	} {
		other := given()
		change(&other)
		require.NotEqual(t, first.Fingerprint, register(other).Fingerprint, name)
	}
}

func TestAFingerprintIsWhatItWasBeforeAgentsHadResources(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, err := b.registry.Register(t.Context(), agent.Registration{
		Attributes: given(), Caller: agent.Caller{ID: caller}, IdempotencyKey: "key",
	})
	require.NoError(t, err)
	// As the release before computed it: the attributes without the field, in this order.
	old := sha256.Sum256([]byte(`{"Email":"screener-01@agents.example.com","Type":"screener","Version":"1.4.0",` +
		`"Capabilities":["resume:read","calendar:*"],"Owner":"talent-team","DeploymentEnv":"production",` +
		`"AllowedScopes":["agents:read"],"Status":null}`))
	require.Equal(t, old[:], b.store.entries[0].Key.Fingerprint)
}

func TestResourcesAreKeptAsTheyWereGiven(t *testing.T) {
	t.Parallel()
	b := setup(t)
	attributes := given()
	attributes.AllowedResources = ref([]string{"https://b.example/", "urn:example:a"})
	registered, err := b.registry.Register(t.Context(), agent.Registration{Attributes: attributes, Caller: agent.Caller{ID: caller}})
	require.NoError(t, err)
	require.Equal(t, []string{"https://b.example/", "urn:example:a"}, registered.AllowedResources)
	require.Equal(t, []any{"https://b.example/", "urn:example:a"}, auditEvents(t, b.store.messages)[0].Metadata["allowedResources"])
}

func TestTheOutcomeOfEveryRegistrationIsCounted(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		err    error
		replay *agent.Agent
		want   string
	}{
		"created":         {want: agent.OutcomeSuccess},
		"answered again":  {replay: &agent.Agent{ID: uuid.New()}, want: agent.OutcomeReplayed},
		"address taken":   {err: agent.ErrAlreadyExists.Because(errors.New("23505")), want: agent.OutcomeAlreadyExists},
		"limit reached":   {err: agent.LimitExceeded(100), want: agent.OutcomeLimitExceeded},
		"key reused":      {err: agent.ErrKeyReused, want: agent.OutcomeKeyReused},
		"database away":   {err: apperr.Unavailable(nil), want: agent.OutcomeError},
		"something else ": {err: errors.New("oops"), want: agent.OutcomeError},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.store.err, b.store.replay = tt.err, tt.replay
			_, err := b.registry.Register(t.Context(), agent.Registration{Attributes: given(), Caller: agent.Caller{ID: caller}})
			require.ErrorIs(t, err, tt.err)
			require.Equal(t, []string{tt.want}, b.outcomes)
			require.Contains(t, agent.Outcomes(), tt.want)
		})
	}
}

func TestAChangeIsANewRevisionWithItsEvents(t *testing.T) {
	t.Parallel()
	b := setup(t)
	before := b.register(t)
	b.now = b.now.Add(time.Minute)

	after, err := b.registry.Change(t.Context(), before.ID, agent.Attributes{
		Version: ref("2.0.0"), Capabilities: ref([]string{"x:y"}), Owner: ref("talent-team"),
		AllowedScopes: ref([]string{}), Type: ref("custom"), DeploymentEnv: ref("staging"),
		AllowedResources: ref([]string{"https://api.example.com/"}),
	}, permitted())
	require.NoError(t, err)

	want := before
	want.Version, want.Capabilities, want.AllowedScopes = "2.0.0", []string{"x:y"}, []string{}
	want.Type, want.DeploymentEnv, want.AllowedResources = "custom", "staging", []string{"https://api.example.com/"}
	want.Revision, want.UpdatedAt = 2, before.UpdatedAt.Add(time.Minute)
	require.Equal(t, want, after)
	require.Empty(t, b.cutoffs.told, "tokens stay good")

	events := auditEvents(t, b.store.messages)
	require.Len(t, events, 1)
	require.Equal(t, auditevent.AgentUpdated, events[0].Action)
	require.Equal(t, []any{"agentType", "version", "capabilities", "deploymentEnv", "allowedScopes", "allowedResources"}, events[0].Metadata["changes"],
		"the owner was named but did not change")
	require.Equal(t, "1.4.0", events[0].Metadata["from"].(map[string]any)["version"])
	require.Equal(t, "2.0.0", events[0].Metadata["to"].(map[string]any)["version"])

	state := lifecycleState(t, b.store.messages)
	require.Equal(t, int64(2), state.Revision)
	require.Equal(t, "active", state.Status)
	require.True(t, state.TokensValidAfter.IsZero())
}

func lifecycleState(t *testing.T, messages []outbox.Message) lifecycle.AgentChanged {
	t.Helper()
	at := slices.IndexFunc(messages, func(m outbox.Message) bool { return m.Subject[:10] == "lifecycle." })
	require.GreaterOrEqual(t, at, 0)
	var state lifecycle.AgentChanged
	require.NoError(t, json.Unmarshal(messages[at].Payload, &state))
	require.Equal(t, "lifecycle.agent."+state.AgentID.String(), messages[at].Subject)
	return state
}

func TestAChangeThatAltersNothingIsARevisionToo(t *testing.T) {
	t.Parallel()
	b := setup(t)
	before := b.register(t)
	after, err := b.registry.Change(t.Context(), before.ID, agent.Attributes{Status: ref("active")}, permitted())
	require.NoError(t, err)
	require.Equal(t, int64(2), after.Revision)
	events := auditEvents(t, b.store.messages)
	require.Equal(t, auditevent.AgentUpdated, events[0].Action)
	require.Equal(t, []any{}, events[0].Metadata["changes"])
	require.Equal(t, before.TokensValidAfter, after.TokensValidAfter)
	require.Empty(t, b.cutoffs.told)
}

func TestSuspendingReactivatingAndDecommissioningCutTokensOff(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.register(t)

	suspended, err := b.registry.Change(t.Context(), first.ID, agent.Attributes{Status: ref("suspended"), Owner: ref("new")}, permitted())
	require.NoError(t, err)
	require.Equal(t, agent.Suspended, suspended.Status)
	// 123.456 ms is rounded up, or tokens of the same millisecond would stay good.
	require.Equal(t, time.Date(2026, 11, 22, 8, 30, 0, 124000000, time.UTC), suspended.TokensValidAfter)
	event := auditEvents(t, b.store.messages)[0]
	require.Equal(t, auditevent.AgentSuspended, event.Action)
	require.Equal(t, []any{"owner", "status"}, event.Metadata["changes"])
	state := lifecycleState(t, b.store.messages)
	require.Equal(t, "suspended", state.Status)
	require.Equal(t, suspended.TokensValidAfter, state.TokensValidAfter)
	require.Equal(t, origin(), state.Origin)

	b.store.messages = nil
	b.now = b.now.Add(-time.Hour) // a clock that was set back
	active, err := b.registry.Change(t.Context(), first.ID, agent.Attributes{Status: ref("active")}, permitted())
	require.NoError(t, err)
	require.Equal(t, suspended.TokensValidAfter.Add(time.Millisecond), active.TokensValidAfter,
		"never moves back, and ends what was issued a millisecond after the cutoff before")
	require.Equal(t, suspended.UpdatedAt, active.UpdatedAt, "never moves back")
	event = auditEvents(t, b.store.messages)[0]
	require.Equal(t, auditevent.AgentReactivated, event.Action)
	require.Equal(t, start.Add(-time.Hour).UTC().Truncate(time.Microsecond), event.Timestamp, "the event is of the clock's time")

	b.store.messages = nil
	b.now = start.Add(time.Hour)
	require.NoError(t, b.registry.Decommission(t.Context(), first.ID, permitted()))
	gone := b.store.agents[first.ID]
	require.Equal(t, agent.Decommissioned, gone.Status)
	require.Equal(t, auditevent.AgentDecommissioned, auditEvents(t, b.store.messages)[0].Action)

	require.Equal(t, []revocation.Cutoff{
		{AgentID: first.ID, Revision: 2, Blocked: true, ValidAfter: suspended.TokensValidAfter},
		{AgentID: first.ID, Revision: 3, Blocked: false, ValidAfter: active.TokensValidAfter},
		{AgentID: first.ID, Revision: 4, Blocked: true, ValidAfter: gone.TokensValidAfter},
	}, b.cutoffs.told)
}

func TestAChangeIsOfTheStoresTimeHoweverWrongTheReplicasClockIs(t *testing.T) {
	t.Parallel()
	for name, ahead := range map[string]time.Duration{"slow": -time.Hour, "fast": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			first := b.register(t)
			b.now, b.ahead = b.now.Add(time.Minute), ahead
			now := first.UpdatedAt.Add(time.Minute)

			suspended, err := b.registry.Change(t.Context(), first.ID, agent.Attributes{Status: ref("suspended")}, permitted())
			require.NoError(t, err)
			cutoff := now.Truncate(time.Millisecond).Add(time.Millisecond)
			require.Equal(t, cutoff, suspended.TokensValidAfter)
			require.Equal(t, cutoff, lifecycleState(t, b.store.messages).TokensValidAfter)
			require.Equal(t, cutoff, b.cutoffs.told[0].ValidAfter)

			keyed, err := b.registry.SetKeys(t.Context(), first.ID, agent.Keys{URI: keysURI}, permitted())
			require.NoError(t, err)
			require.NoError(t, b.registry.Decommission(t.Context(), first.ID, permitted()))
			gone := b.store.agents[first.ID]
			require.Equal(t, cutoff.Add(time.Millisecond), gone.TokensValidAfter)
			require.Equal(t, []time.Time{now, now, now}, []time.Time{suspended.UpdatedAt, keyed.UpdatedAt, gone.UpdatedAt})
			events := auditEvents(t, b.store.messages)
			require.Len(t, events, 3)
			for _, event := range events {
				require.Equal(t, now, event.Timestamp, event.Action)
			}
		})
	}
}

func TestAWholeMillisecondIsItsOwnCutoff(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.register(t)
	b.now = time.Date(2026, 11, 22, 9, 0, 0, 5000000, time.UTC)
	suspended, err := b.registry.Change(t.Context(), first.ID, agent.Attributes{Status: ref("suspended")}, permitted())
	require.NoError(t, err)
	require.Equal(t, b.now, suspended.TokensValidAfter)
}

func TestARevocationStoreThatIsAwayDoesNotFailTheChange(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.register(t)
	b.cutoffs.err = errors.New("redis is away")
	_, err := b.registry.Change(t.Context(), first.ID, agent.Attributes{Status: ref("suspended")}, permitted())
	require.NoError(t, err)
	require.Len(t, b.cutoffs.told, 1)
}

func TestACutoffIsToldOfWhatWasCommittedOnly(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.register(t)
	b.store.err = errors.New("the commit failed")
	_, err := b.registry.Change(t.Context(), first.ID, agent.Attributes{Status: ref("suspended")}, permitted())
	require.ErrorIs(t, err, b.store.err)
	require.Empty(t, b.cutoffs.told)
}

func TestACutoffIsToldOfAlsoWhenTheCallerHasLeft(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.register(t)
	ctx, cancel := context.WithCancel(t.Context())
	demand := permitted()
	demand.Permit = func(agent.Agent) error { cancel(); return nil }
	_, err := b.registry.Change(ctx, first.ID, agent.Attributes{Status: ref("suspended")}, demand)
	require.NoError(t, err)
	require.Len(t, b.cutoffs.told, 1)
}

func TestWhatStopsAChange(t *testing.T) {
	t.Parallel()
	denied := apperr.New(apperr.Forbidden, "no")
	tests := map[string]struct {
		status agent.Status
		demand agent.Demand
		want   error
	}{
		"the policy, before all": {
			agent.Decommissioned, agent.Demand{Permit: func(agent.Agent) error { return denied }}, denied,
		},
		"that the agent is decommissioned, before the precondition": {
			agent.Decommissioned,
			agent.Demand{Permit: permitted().Permit, IfMatch: agent.ParsePrecondition([]string{`"9"`})},
			agent.ErrDecommissioned,
		},
		"the precondition": {
			agent.Active,
			agent.Demand{Permit: permitted().Permit, IfMatch: agent.ParsePrecondition([]string{`"9"`})},
			agent.ErrPreconditionFailed,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			current := b.register(t)
			current.Status = tt.status
			b.store.agents[current.ID] = current

			_, err := b.registry.Change(t.Context(), current.ID, agent.Attributes{Owner: ref("x")}, tt.demand)
			require.ErrorIs(t, err, tt.want)
			require.ErrorIs(t, b.registry.Decommission(t.Context(), current.ID, tt.demand), tt.want)
			require.Equal(t, current, b.store.agents[current.ID])
			require.Empty(t, b.store.messages)
			require.Empty(t, b.cutoffs.told)
		})
	}
}

func TestAnAgentThatIsNotThereCannotBeChanged(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, err := b.registry.Change(t.Context(), uuid.New(), agent.Attributes{Owner: ref("x")}, permitted())
	require.Equal(t, apperr.AgentNotFound, apperr.CodeOf(err))
	require.Equal(t, apperr.AgentNotFound, apperr.CodeOf(b.registry.Decommission(t.Context(), uuid.New(), permitted())))
	_, err = b.registry.Agent(t.Context(), uuid.New())
	require.Equal(t, apperr.AgentNotFound, apperr.CodeOf(err))
}

func TestTheOperatorIsCreatedOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first, created, err := b.registry.Bootstrap(t.Context(), agent.Operator{
		Email: "operator@example.com", Owner: "platform", DeploymentEnv: "production",
	})
	require.NoError(t, err)
	require.True(t, created)
	require.Nil(t, first.RegisteredBy)
	require.Equal(t, []string{"agents:read", "agents:write", "tokens:read", "audit:read", "agents:admin"}, first.AllowedScopes)
	require.Equal(t, []string{"operator:*"}, first.Capabilities)
	require.Equal(t, []string{}, first.AllowedResources)
	require.Equal(t, "custom", first.Type)
	require.Zero(t, b.store.entries[0].Limit, "the limit does not refuse it")
	events := auditEvents(t, b.store.messages)
	require.Len(t, events, 1)
	require.Equal(t, auditevent.AgentCreated, events[0].Action)
	require.Nil(t, events[0].ActorID)

	second, created, err := b.registry.Bootstrap(t.Context(), agent.Operator{Email: "other@example.com", Owner: "x", DeploymentEnv: "staging"})
	require.NoError(t, err)
	require.False(t, created)
	require.Equal(t, first, second)
	require.Equal(t, []string{agent.OutcomeSuccess}, b.outcomes, "what was there already is no registration")

	b.store.err = agent.ErrAlreadyExists
	_, _, err = b.registry.Bootstrap(t.Context(), agent.Operator{Email: "x@example.com", Owner: "x", DeploymentEnv: "staging"})
	require.Equal(t, apperr.AgentAlreadyExists, apperr.CodeOf(err))
}

func TestAnotherOperatorTakesThePlaceOfOneThatIsNotActive(t *testing.T) {
	t.Parallel()
	for _, status := range []agent.Status{agent.Active, agent.Suspended, agent.Decommissioned} {
		t.Run(string(status), func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			wanted := agent.Operator{Email: "first@example.com", Owner: "platform", DeploymentEnv: "production"}
			first, _, err := b.registry.Bootstrap(t.Context(), wanted)
			require.NoError(t, err)
			first.Status = status
			b.store.agents[first.ID] = first

			wanted.Email = "second@example.com"
			same, created, err := b.registry.Bootstrap(t.Context(), wanted)
			require.NoError(t, err)
			require.False(t, created, "only on demand")
			require.Equal(t, first, same)

			wanted.Another = true
			second, created, err := b.registry.Bootstrap(t.Context(), wanted)
			require.NoError(t, err)
			require.Equal(t, status != agent.Active, created)
			want := []auditevent.Action{auditevent.AgentCreated}
			switch status {
			case agent.Active:
				require.Equal(t, first, second)
			case agent.Suspended:
				want = append(want, auditevent.AgentDecommissioned)
				require.Equal(t, agent.Decommissioned, b.store.agents[first.ID].Status)
				fallthrough
			default:
				want = append(want, auditevent.AgentCreated)
				require.Equal(t, "second@example.com", second.Email)
				require.Equal(t, agent.Active, second.Status)
			}
			var actions []auditevent.Action
			for _, event := range auditEvents(t, b.store.messages) {
				actions = append(actions, event.Action)
			}
			require.Equal(t, want, actions)
		})
	}
}

func TestASuspendedOperatorStaysWhereItsSuccessorCannotBeMade(t *testing.T) {
	t.Parallel()
	b := setup(t)
	wanted := agent.Operator{Email: "first@example.com", Owner: "platform", DeploymentEnv: "production"}
	first, _, err := b.registry.Bootstrap(t.Context(), wanted)
	require.NoError(t, err)
	first.Status = agent.Suspended
	b.store.agents[first.ID] = first
	wanted.Another = true
	_, _, err = b.registry.Bootstrap(t.Context(), wanted)
	require.Equal(t, apperr.AgentAlreadyExists, apperr.CodeOf(err))
	require.Equal(t, first, b.store.agents[first.ID])
	require.Equal(t, []string{agent.OutcomeSuccess, agent.OutcomeAlreadyExists}, b.outcomes)
}

func TestTheListIsTheStores(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.register(t)
	listing, err := b.registry.List(t.Context(), agent.Filter{}, paging.Page{Limit: 1})
	require.NoError(t, err)
	require.Equal(t, paging.Total{Items: 1}, listing.Total)
}

func TestAnAgentDescribesItselfToThePolicy(t *testing.T) {
	t.Parallel()
	b := setup(t)
	registered := b.register(t)
	resource := registered.Resource()
	require.Equal(t, registered.ID.String(), resource.AgentID)
	require.Equal(t, "talent-team", resource.Owner)
	require.Equal(t, caller.String(), resource.RegisteredBy)
	require.True(t, *resource.Exists)
	require.Nil(t, resource.AllowedScopes)

	registered.RegisteredBy = nil
	require.Empty(t, registered.Resource().RegisteredBy)
}
