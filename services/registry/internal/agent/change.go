package agent

import (
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/lifecycle"
	"github.com/sentryagent/agentidp/pkg/outbox"
)

// serviceName is the registry in audit events and in their subjects.
const serviceName = "registry"

// difference is what a change altered: the names of the fields, and their values before and after it.
type difference struct {
	fields   []string
	from, to map[string]any
}

// apply returns the agent as the given attributes make it, and how it differs from what it was. The email is
// not among them: it is immutable.
func (a Agent) apply(given Attributes) (Agent, difference) {
	next := a
	diff := difference{fields: []string{}, from: map[string]any{}, to: map[string]any{}}
	note := func(field string, from, to any) {
		diff.fields = append(diff.fields, field)
		diff.from[field], diff.to[field] = from, to
	}
	text := func(field string, target *string, value *string) {
		if value != nil && *value != *target {
			note(field, *target, *value)
			*target = *value
		}
	}
	list := func(field string, target *[]string, values *[]string) {
		if values != nil && !slices.Equal(*values, *target) {
			note(field, *target, *values)
			*target = slices.Clone(*values)
		}
	}
	text("agentType", &next.Type, given.Type)
	text("version", &next.Version, given.Version)
	list("capabilities", &next.Capabilities, given.Capabilities)
	text("owner", &next.Owner, given.Owner)
	text("deploymentEnv", &next.DeploymentEnv, given.DeploymentEnv)
	list("allowedScopes", &next.AllowedScopes, given.AllowedScopes)
	list("allowedResources", &next.AllowedResources, given.AllowedResources)
	status := string(a.Status)
	text("status", &status, given.Status)
	next.Status = Status(status)
	return next, diff
}

// revise makes next the following revision of the agent. A change of status in either direction ends every
// token issued until now: suspending refuses them, and reactivating must not give them back. A clock that was
// ahead once leaves a cutoff that is still to come, and tokens a millisecond after it: the next one ends these too.
func (a Agent) revise(next Agent, now time.Time) Agent {
	next.Revision = a.Revision + 1
	next.UpdatedAt = later(a.UpdatedAt, now)
	if next.Status != a.Status {
		next.TokensValidAfter = later(a.TokensValidAfter.Add(time.Millisecond), ceilMillisecond(now))
	}
	return next
}

// changeAction names what happened for the audit trail.
func changeAction(from, to Status) auditevent.Action {
	switch {
	case from == to:
		return auditevent.AgentUpdated
	case to == Suspended:
		return auditevent.AgentSuspended
	case to == Decommissioned:
		return auditevent.AgentDecommissioned
	default:
		return auditevent.AgentReactivated
	}
}

// changed returns what a change at a time leaves behind: the audit event, and the agent's new state for those who
// cache it.
func (r *Registry) changed(from, to Agent, at time.Time, origin auditevent.Origin, metadata map[string]any) ([]outbox.Message, error) {
	audit, err := r.audited(changeAction(from.Status, to.Status), to.ID, at, origin, metadata)
	if err != nil {
		return nil, err
	}
	state, err := r.state(to, origin)
	if err != nil {
		return nil, err
	}
	return []outbox.Message{audit, state}, nil
}

// state tells those who cache the agent of its new revision.
func (r *Registry) state(a Agent, origin auditevent.Origin) (outbox.Message, error) {
	return lifecycle.AgentChanged{
		AgentID:          a.ID,
		Status:           string(a.Status),
		Revision:         a.Revision,
		TokensValidAfter: a.TokensValidAfter,
		OccurredAt:       a.UpdatedAt,
		Origin:           origin,
	}.Message(r.newID())
}

// created returns what a registration leaves behind.
func (r *Registry) created(a Agent, origin auditevent.Origin) ([]outbox.Message, error) {
	message, err := r.audited(auditevent.AgentCreated, a.ID, a.CreatedAt, origin, map[string]any{
		"email":            a.Email,
		"agentType":        a.Type,
		"version":          a.Version,
		"capabilities":     a.Capabilities,
		"owner":            a.Owner,
		"deploymentEnv":    a.DeploymentEnv,
		"allowedScopes":    a.AllowedScopes,
		"allowedResources": a.AllowedResources,
	})
	if err != nil {
		return nil, err
	}
	return []outbox.Message{message}, nil
}

// audited is the event of what happened at a time. That is the clock's and not the agent's UpdatedAt, which never moves
// back: after one change by a clock that was days ahead the audit service would refuse all that follow.
func (r *Registry) audited(
	action auditevent.Action, agentID uuid.UUID, at time.Time, origin auditevent.Origin, metadata map[string]any,
) (outbox.Message, error) {
	return auditevent.New(r.newID(), at, serviceName, action, &agentID, origin, metadata).Message()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// ceilMillisecond returns the first whole millisecond that is not before t, because a token carries its time of
// issue in whole milliseconds: rounded down, a token from the same millisecond would outlive the change.
func ceilMillisecond(t time.Time) time.Time {
	floor := t.Truncate(time.Millisecond)
	if floor.Equal(t) {
		return floor
	}
	return floor.Add(time.Millisecond)
}
