package agent_test

import (
	"crypto/ed25519"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/jwk"
	"github.com/sentryagent/agentidp/services/registry/internal/agent"
)

const keysURI = "https://agent.example.com/jwks.json"

// keySet is a set of two keys, one of which has a kid, as it is kept.
func keySet(t *testing.T) json.RawMessage {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	set, err := jwk.MarshalSet([]jwk.Key{{ID: "2026-11", Public: public}, {Algorithm: jwk.EdDSA, Public: public}})
	require.NoError(t, err)
	return set
}

func TestKeysAreASetOrAURI(t *testing.T) {
	t.Parallel()
	set := keySet(t)
	keys, faults := agent.KeysFrom(set, nil)
	require.Empty(t, faults)
	require.Equal(t, agent.Keys{JWKS: set}, keys)

	keys, faults = agent.KeysFrom(nil, json.RawMessage(`"`+keysURI+`"`))
	require.Empty(t, faults)
	require.Equal(t, agent.Keys{URI: keysURI}, keys)
}

func TestOfASetOnlyWhatIsKnownToBePublicIsKept(t *testing.T) {
	t.Parallel()
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	require.NoError(t, json.Unmarshal(keySet(t), &set))
	set.Keys[0]["x5t"], set.Keys[0]["note"] = "a thumbprint", "a secret?"
	set.Keys[0]["key_ops"] = []string{"verify"}
	given, err := json.Marshal(map[string]any{"keys": set.Keys[:1], "extra": 7})
	require.NoError(t, err)
	keys, faults := agent.KeysFrom(given, nil)
	require.Empty(t, faults)
	require.JSONEq(t, `{"keys":[{"kty":"OKP","use":"sig","kid":"2026-11","crv":"Ed25519","x":"`+set.Keys[0]["x"].(string)+`"}]}`,
		string(keys.JWKS))
}

func TestWhatIsWrongWithKeys(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		jwks, uri string
		want      []apperr.FieldError
	}{
		"nothing was given": {"", "", []apperr.FieldError{{Field: "jwks", Reason: "or jwksUri is required"}}},
		"both were given": {string(keySet(t)), `"` + keysURI + `"`, []apperr.FieldError{
			{Field: "jwksUri", Reason: "must not be given together with jwks"},
		}},
		"both were given, and both are wrong": {`{"keys":[]}`, `"http://agent.example.com/"`, []apperr.FieldError{
			{Field: "jwksUri", Reason: "must not be given together with jwks"},
			{Field: "jwks.keys", Reason: "must have 1 to 16 items"},
			{Field: "jwksUri", Reason: "must be an absolute https URI"},
		}},
		"null instead of a set": {"null", "", []apperr.FieldError{{Field: "jwks", Reason: `must be an object with a list "keys"`}}},
		"null instead of a URI": {"", "null", []apperr.FieldError{{Field: "jwksUri", Reason: "must be an https URI"}}},
		"a number for a URI":    {"", "7", []apperr.FieldError{{Field: "jwksUri", Reason: "must be an https URI"}}},
		"a list of keys":        {"[]", "", []apperr.FieldError{{Field: "jwks", Reason: `must be an object with a list "keys"`}}},
		"a private key": {`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"bWluZQ"}]}`, "", []apperr.FieldError{
			{Field: "jwks.keys[0].d", Reason: "is private key material: register the public key only"},
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			part := func(text string) json.RawMessage {
				if text == "" {
					return nil
				}
				return json.RawMessage(text)
			}
			keys, faults := agent.KeysFrom(part(tt.jwks), part(tt.uri))
			require.Equal(t, tt.want, faults)
			require.Zero(t, keys)
		})
	}
}

func TestNewKeysAreARevisionOfTheirAgent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	before := b.register(t)
	b.now = b.now.Add(time.Minute)
	keys := agent.Keys{JWKS: keySet(t)}
	after, err := b.registry.SetKeys(t.Context(), before.ID, keys, permitted())
	require.NoError(t, err)
	want := before
	want.Revision, want.UpdatedAt = 2, before.UpdatedAt.Add(time.Minute)
	require.Equal(t, want, after)
	require.Empty(t, b.cutoffs.told, "tokens stay good")

	stored, found, err := b.registry.AgentAndKeys(t.Context(), before.ID)
	require.NoError(t, err)
	require.Equal(t, after, stored)
	require.Equal(t, &keys, found)

	events := auditEvents(t, b.store.messages)
	require.Len(t, events, 1)
	require.Equal(t, auditevent.AgentKeysUpdated, events[0].Action)
	require.Equal(t, "audit.registry.agent.keys_updated", b.store.messages[0].Subject)
	require.Equal(t, before.ID, *events[0].AgentID)
	require.Equal(t, caller, *events[0].ActorID)
	set, err := jwk.ReadSet(keys.JWKS)
	require.NoError(t, err)
	thumbprint, err := set[0].Thumbprint()
	require.NoError(t, err)
	require.Equal(t, map[string]any{
		"set": "jwks", "keys": 2.0, "kids": []any{"2026-11"}, "thumbprints": []any{thumbprint, thumbprint},
	}, events[0].Metadata)
	state := lifecycleState(t, b.store.messages)
	require.Equal(t, int64(2), state.Revision)
	require.Equal(t, "active", state.Status)
}

func TestAURIReplacesASetAndIsRemoved(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.register(t)
	_, err := b.registry.SetKeys(t.Context(), first.ID, agent.Keys{JWKS: keySet(t)}, permitted())
	require.NoError(t, err)
	b.store.messages = nil
	const withQuery = keysURI + "?key=for-readers"
	_, err = b.registry.SetKeys(t.Context(), first.ID, agent.Keys{URI: withQuery}, permitted())
	require.NoError(t, err)
	require.Equal(t, agent.Keys{URI: withQuery}, b.store.keys[first.ID])
	require.Equal(t, map[string]any{"set": "jwksUri", "jwksUri": keysURI}, auditEvents(t, b.store.messages)[0].Metadata)

	b.store.messages = nil
	b.now = b.now.Add(-time.Hour) // a clock that was set back
	require.NoError(t, b.registry.RemoveKeys(t.Context(), first.ID, permitted()))
	require.Empty(t, b.store.keys)
	require.Equal(t, int64(4), b.store.agents[first.ID].Revision)
	event := auditEvents(t, b.store.messages)[0]
	require.Equal(t, auditevent.AgentKeysUpdated, event.Action)
	require.Equal(t, map[string]any{"removed": true}, event.Metadata)
	require.Equal(t, first.UpdatedAt.Add(-time.Hour), event.Timestamp, "the event is of the clock's time")
	require.Equal(t, int64(4), lifecycleState(t, b.store.messages).Revision)

	b.store.messages = nil
	require.Equal(t, apperr.AgentKeysNotFound, apperr.CodeOf(b.registry.RemoveKeys(t.Context(), first.ID, permitted())))
	require.Empty(t, b.store.messages)
	require.Equal(t, int64(4), b.store.agents[first.ID].Revision)
}

func TestWhatStopsAChangeStopsOneOfKeys(t *testing.T) {
	t.Parallel()
	denied := apperr.New(apperr.Forbidden, "no")
	stale := agent.Demand{Permit: permitted().Permit, IfMatch: agent.ParsePrecondition([]string{`"9"`})}
	for name, tt := range map[string]struct {
		status agent.Status
		demand agent.Demand
		want   error
	}{
		"the policy":            {agent.Decommissioned, agent.Demand{Permit: func(agent.Agent) error { return denied }}, denied},
		"a decommissioned one":  {agent.Decommissioned, stale, agent.ErrDecommissioned},
		"the precondition":      {agent.Suspended, stale, agent.ErrPreconditionFailed},
		"the end of the agent":  {agent.Decommissioned, permitted(), agent.ErrDecommissioned},
		"not that it is paused": {agent.Suspended, permitted(), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			current := b.register(t)
			current.Status = tt.status
			b.store.agents[current.ID] = current
			b.store.keys[current.ID] = agent.Keys{URI: keysURI}

			_, err := b.registry.SetKeys(t.Context(), current.ID, agent.Keys{JWKS: keySet(t)}, tt.demand)
			require.ErrorIs(t, err, tt.want)
			require.ErrorIs(t, b.registry.RemoveKeys(t.Context(), current.ID, tt.demand), tt.want)
			if tt.want != nil {
				require.Equal(t, agent.Keys{URI: keysURI}, b.store.keys[current.ID])
				require.Empty(t, b.store.messages)
			}
		})
	}
}

func TestAnAgentThatIsNotThereHasNoKeys(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, err := b.registry.SetKeys(t.Context(), uuid.New(), agent.Keys{URI: keysURI}, permitted())
	require.Equal(t, apperr.AgentNotFound, apperr.CodeOf(err))
	require.Equal(t, apperr.AgentNotFound, apperr.CodeOf(b.registry.RemoveKeys(t.Context(), uuid.New(), permitted())))
	_, _, err = b.registry.AgentAndKeys(t.Context(), uuid.New())
	require.Equal(t, apperr.AgentNotFound, apperr.CodeOf(err))
}
