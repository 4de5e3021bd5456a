package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/jwk"
	"github.com/sentryagent/agentidp/pkg/outbox"
)

// Keys are the public keys that an agent proves itself with (RFC 7523 §2.2): either a set that it registered, or the URI that
// its set is fetched from.
type Keys struct {
	// JWKS is as jwk.MarshalSet writes it: nothing but the public parameters, kid, use and alg. Nil where there is a URI.
	JWKS json.RawMessage
	URI  string
}

// KeysFrom reads the keys that a caller gave, each part nil where it gave none, and lists what is wrong with them: exactly one
// of the two, a set that jwk.ParseClientSet takes or a URI that jwk.CheckURI does. No fault repeats anything of a set.
func KeysFrom(jwks, uri json.RawMessage) (Keys, []apperr.FieldError) {
	var faults []apperr.FieldError
	switch {
	case jwks == nil && uri == nil:
		return Keys{}, []apperr.FieldError{{Field: "jwks", Reason: "or jwksUri is required"}}
	case jwks != nil && uri != nil:
		faults = append(faults, apperr.FieldError{Field: "jwksUri", Reason: "must not be given together with jwks"})
	}
	var keys Keys
	if jwks != nil {
		var wrong []apperr.FieldError
		keys.JWKS, wrong = setFrom(jwks)
		faults = append(faults, wrong...)
	}
	if uri != nil {
		if err := json.Unmarshal(uri, &keys.URI); err != nil || keys.URI == "" {
			faults = append(faults, apperr.FieldError{Field: "jwksUri", Reason: "must be an https URI"})
		} else if reason := jwk.CheckURI(keys.URI); reason != "" {
			faults = append(faults, apperr.FieldError{Field: "jwksUri", Reason: reason})
		}
	}
	if len(faults) > 0 {
		return Keys{}, faults
	}
	return keys, nil
}

// setFrom gives the set in the form in which it is kept.
func setFrom(raw json.RawMessage) (json.RawMessage, []apperr.FieldError) {
	const field = "jwks"
	parsed, err := jwk.ParseClientSet(raw)
	var faults jwk.SetErrors
	if errors.As(err, &faults) {
		wrong := make([]apperr.FieldError, 0, len(faults))
		for _, fault := range faults {
			name := field
			if fault.Field != "" {
				name += "." + fault.Field
			}
			wrong = append(wrong, apperr.FieldError{Field: name, Reason: fault.Reason})
		}
		return nil, wrong
	}
	if err == nil {
		raw, err = jwk.MarshalSet(parsed)
	}
	if err != nil {
		return nil, []apperr.FieldError{{Field: field, Reason: "is no set of public keys"}}
	}
	return raw, nil
}

// metadata says for the audit trail what was registered: of a set the kids that there are, which anybody may give to another
// key, and the thumbprint of each key, which nobody can.
func (k Keys) metadata() (map[string]any, error) {
	if k.JWKS == nil {
		return map[string]any{"set": "jwksUri", "jwksUri": withoutQuery(k.URI)}, nil
	}
	set, err := jwk.ReadSet(k.JWKS)
	if err != nil {
		return nil, err
	}
	kids, thumbprints := []string{}, make([]string, 0, len(set))
	for _, key := range set {
		if key.ID != "" {
			kids = append(kids, key.ID)
		}
		thumbprint, err := key.Thumbprint()
		if err != nil {
			return nil, err
		}
		thumbprints = append(thumbprints, thumbprint)
	}
	return map[string]any{"set": "jwks", "keys": len(set), "kids": kids, "thumbprints": thumbprints}, nil
}

// withoutQuery is the URI as the trail names it: a query may hold what lets one read the set.
func withoutQuery(uri string) string {
	place, _, _ := strings.Cut(uri, "?") // CheckURI took it: there is no fragment
	return place
}

// WithKeys is an agent with its keys as they were at the same moment, nil if it has none.
type WithKeys struct {
	Agent

	Keys *Keys
}

// Agents returns those of the agents that there are, whatever their status, in no order.
func (r *Registry) Agents(ctx context.Context, ids []uuid.UUID) ([]WithKeys, error) {
	return r.store.Agents(ctx, ids)
}

// AgentAndKeys returns one agent with its keys, nil if it has none; or AGENT_NOT_FOUND.
func (r *Registry) AgentAndKeys(ctx context.Context, id uuid.UUID) (Agent, *Keys, error) {
	found, err := r.store.Agents(ctx, []uuid.UUID{id})
	if err != nil {
		return Agent{}, nil, err
	}
	if len(found) == 0 {
		return Agent{}, nil, ErrNotFound
	}
	return found[0].Agent, found[0].Keys, nil
}

// SetKeys replaces the keys of an agent and returns it as it is then: its keys are a part of it, so that this is a revision
// of it. Errors as those of Change.
func (r *Registry) SetKeys(ctx context.Context, id uuid.UUID, keys Keys, demand Demand) (Agent, error) {
	metadata, err := keys.metadata()
	if err != nil {
		return Agent{}, fmt.Errorf("describe the keys: %w", err)
	}
	return r.store.ReviseKeys(ctx, id, func(current Agent, _ *Keys, now time.Time) (Revision, *Keys, error) {
		if err := demand.check(current); err != nil {
			return Revision{}, nil, err
		}
		revision, err := r.keysRevision(current, now, demand.Origin, metadata)
		return revision, &keys, err
	})
}

// RemoveKeys takes the keys of an agent away. Errors as those of Change, and AGENT_KEYS_NOT_FOUND.
func (r *Registry) RemoveKeys(ctx context.Context, id uuid.UUID, demand Demand) error {
	_, err := r.store.ReviseKeys(ctx, id, func(current Agent, keys *Keys, now time.Time) (Revision, *Keys, error) {
		if err := demand.check(current); err != nil {
			return Revision{}, nil, err
		}
		if keys == nil {
			return Revision{}, nil, ErrKeysNotFound
		}
		revision, err := r.keysRevision(current, now, demand.Origin, map[string]any{"removed": true})
		return revision, nil, err
	})
	return err
}

// keysRevision is the agent after its keys changed, with what that leaves behind.
func (r *Registry) keysRevision(current Agent, now time.Time, origin auditevent.Origin, metadata map[string]any) (Revision, error) {
	next := current.revise(current, now)
	audit, err := r.audited(auditevent.AgentKeysUpdated, next.ID, now, origin, metadata)
	if err != nil {
		return Revision{}, err
	}
	state, err := r.state(next, origin)
	if err != nil {
		return Revision{}, err
	}
	return Revision{Agent: next, Messages: []outbox.Message{audit, state}}, nil
}
