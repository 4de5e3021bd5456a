package agent

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/pkg/revocation"
)

// cutoffTimeout bounds how long an answer may wait for the revocation store, which is told as a courtesy: the
// durable way is the lifecycle event.
const cutoffTimeout = time.Second

// What became of a registration, for the metric.
const (
	OutcomeSuccess       = "success"
	OutcomeReplayed      = "replayed"
	OutcomeAlreadyExists = "already_exists"
	OutcomeLimitExceeded = "limit_exceeded"
	OutcomeKeyReused     = "key_reused"
	OutcomeError         = "error"
)

// Outcomes returns what can become of a registration.
func Outcomes() []string {
	return []string{
		OutcomeSuccess, OutcomeReplayed, OutcomeAlreadyExists, OutcomeLimitExceeded, OutcomeKeyReused, OutcomeError,
	}
}

// Cutoffs is where the moment from which an agent's tokens count is made known at once.
type Cutoffs interface {
	SetCutoff(ctx context.Context, cutoff revocation.Cutoff) error
}

// Options are the parts of a Registry; all are required.
type Options struct {
	Store   Store
	Cutoffs Cutoffs
	// MaxAgents is how many agents that are not decommissioned there may be; 0 is no limit.
	MaxAgents int64
	Clock     func() time.Time
	NewID     func() uuid.UUID
	Log       *slog.Logger
	// Registered is told the outcome of every registration.
	Registered func(outcome string)
}

// Registry holds the operations on agents. Errors are *apperr.Error; what is not the caller's fault comes from
// the store as it is.
type Registry struct {
	store      Store
	cutoffs    Cutoffs
	maxAgents  int64
	clock      func() time.Time
	newID      func() uuid.UUID
	log        *slog.Logger
	registered func(outcome string)
}

// New returns a Registry made of the given parts.
func New(o Options) *Registry {
	return &Registry{
		store:      o.Store,
		cutoffs:    o.Cutoffs,
		maxAgents:  o.MaxAgents,
		clock:      o.Clock,
		newID:      o.NewID,
		log:        o.Log,
		registered: o.Registered,
	}
}

// Caller is the bearer of the token that asks for a registration.
type Caller struct {
	ID     uuid.UUID
	Scopes []string
	Origin auditevent.Origin
}

// Registration asks for a new agent. Attributes must be without faults (FaultsOfRegistration), and the policy
// must have allowed its allowedScopes.
type Registration struct {
	Attributes Attributes
	Caller     Caller
	// IdempotencyKey is empty if the caller gave none.
	IdempotencyKey string
}

// Register creates an agent, or answers the first result again where the caller repeats itself with an
// idempotency key. Errors: AGENT_ALREADY_EXISTS, FREE_TIER_LIMIT_EXCEEDED, IDEMPOTENCY_KEY_REUSED.
func (r *Registry) Register(ctx context.Context, reg Registration) (Agent, error) {
	now := r.now()
	fresh := fromAttributes(reg.Attributes)
	fresh.ID = r.newID()
	fresh.RegisteredBy = &reg.Caller.ID
	fresh.CreatedAt, fresh.UpdatedAt = now, now
	if reg.Attributes.AllowedScopes == nil {
		fresh.AllowedScopes = defaultScopes(reg.Caller.Scopes)
	}
	messages, err := r.created(fresh, reg.Caller.Origin)
	if err != nil {
		return Agent{}, err
	}
	entry := Entry{Agent: fresh, Messages: messages, Limit: r.maxAgents}
	if reg.IdempotencyKey != "" {
		fingerprint, err := reg.Attributes.fingerprint()
		if err != nil {
			return Agent{}, err
		}
		entry.Key = &IdempotencyKey{
			Caller:      reg.Caller.ID,
			Key:         reg.IdempotencyKey,
			Fingerprint: fingerprint,
			Now:         now,
			ExpiresAt:   now.Add(IdempotencyWindow),
		}
	}
	result, err := r.store.Register(ctx, entry)
	r.registered(outcomeOf(fresh, result, err))
	return result, err
}

// Operator asks for the bootstrap operator.
type Operator struct {
	Email, Owner, DeploymentEnv string
	// Another asks for a new one where the one there is is not active.
	Another bool
	Origin  auditevent.Origin
}

// Bootstrap creates the operator that no token registered, with every system scope, and reports whether it did;
// the operator that exists already is answered as it is. With Another, one that was decommissioned gets a successor, and one
// that is suspended is decommissioned first: whoever asks for another has given it up, and two would be one too many to watch.
// The operator counts as any agent does, but the limit does not refuse it. Error: AGENT_ALREADY_EXISTS where another agent,
// or an operator of before, has the address.
func (r *Registry) Bootstrap(ctx context.Context, o Operator) (Agent, bool, error) {
	result, created, err := r.bootstrap(ctx, o)
	if err != nil || !o.Another || result.Status != Suspended {
		return result, created, err
	}
	if err := r.endSuspended(ctx, result, o); err != nil {
		return Agent{}, false, err
	}
	return r.bootstrap(ctx, o)
}

// errReactivated: somebody has made the operator active again, so that it stays.
var errReactivated = errors.New("the operator is active again")

// endSuspended decommissions the operator, unless its successor could not be made or it is not suspended any more.
func (r *Registry) endSuspended(ctx context.Context, operator Agent, o Operator) error {
	taken, err := r.store.List(ctx, Filter{Email: &o.Email}, paging.Page{Limit: 1})
	if err != nil {
		return err
	}
	if taken.Total.Items > 0 {
		r.registered(OutcomeAlreadyExists)
		return ErrAlreadyExists
	}
	stillSuspended := func(current Agent) error {
		if current.Status == Active {
			return errReactivated
		}
		return nil
	}
	err = r.Decommission(ctx, operator.ID, Demand{Permit: stillSuspended, Origin: o.Origin})
	if errors.Is(err, errReactivated) || apperr.CodeOf(err) == apperr.AgentAlreadyDecommissioned {
		return nil
	}
	return err
}

func (r *Registry) bootstrap(ctx context.Context, o Operator) (Agent, bool, error) {
	now := r.now()
	fresh := Agent{
		ID:               r.newID(),
		Email:            o.Email,
		Type:             "custom",
		Version:          "1.0.0",
		Capabilities:     []string{"operator:*"},
		Owner:            o.Owner,
		DeploymentEnv:    o.DeploymentEnv,
		AllowedScopes:    authz.SystemScopes(),
		AllowedResources: []string{},
		Status:           Active,
		CreatedAt:        now,
		UpdatedAt:        now,
		Revision:         1,
	}
	messages, err := r.created(fresh, o.Origin)
	if err != nil {
		return Agent{}, false, err
	}
	result, err := r.store.Bootstrap(ctx, Entry{Agent: fresh, Messages: messages, Another: o.Another})
	if err != nil {
		r.registered(outcomeOf(fresh, result, err))
		return Agent{}, false, err
	}
	created := result.ID == fresh.ID
	if created {
		r.registered(OutcomeSuccess)
	}
	return result, created, nil
}

// Agent returns one agent, whatever its status, or AGENT_NOT_FOUND.
func (r *Registry) Agent(ctx context.Context, id uuid.UUID) (Agent, error) {
	return r.store.Agent(ctx, id)
}

// List returns the page of the agents that pass the filter, newest first, with the id as tie-break.
func (r *Registry) List(ctx context.Context, filter Filter, page paging.Page) (paging.Listing[Agent], error) {
	return r.store.List(ctx, filter, page)
}

// Demand is what must hold of an agent at the moment it changes.
type Demand struct {
	// Permit asks the policy about the agent as it is under the lock of the change: what was allowed a moment
	// ago need not be allowed once its owner has changed.
	Permit func(Agent) error
	// IfMatch is the caller's precondition; nil is none.
	IfMatch *Precondition
	// Origin is who asked, for the events.
	Origin auditevent.Origin
}

func (d Demand) check(current Agent) error {
	if err := d.Permit(current); err != nil {
		return err
	}
	if current.Status == Decommissioned {
		return ErrDecommissioned
	}
	if d.IfMatch != nil && !d.IfMatch.Holds(current.Revision) {
		return ErrPreconditionFailed
	}
	return nil
}

// CutOff returns the agents some of whose tokens are refused since that time, in the order of their ids from after the
// given one on, limit at most.
func (r *Registry) CutOff(ctx context.Context, since time.Time, after uuid.UUID, limit int) ([]Agent, error) {
	return r.store.CutOff(ctx, since, after, limit)
}

// Change gives the agent the attributes, which must be without faults (FaultsOfChange), and returns it as it is
// then. Every change that was accepted is a revision of its own with its event, also one that altered nothing.
// Errors: AGENT_NOT_FOUND, AGENT_ALREADY_DECOMMISSIONED, PRECONDITION_FAILED, and what Permit returns.
func (r *Registry) Change(ctx context.Context, id uuid.UUID, given Attributes, demand Demand) (Agent, error) {
	return r.revise(ctx, id, func(current Agent, now time.Time) (Revision, error) {
		if err := demand.check(current); err != nil {
			return Revision{}, err
		}
		next, diff := current.apply(given)
		next = current.revise(next, now)
		messages, err := r.changed(current, next, now, demand.Origin, map[string]any{
			"changes": diff.fields, "from": diff.from, "to": diff.to,
		})
		return Revision{Agent: next, Messages: messages}, err
	})
}

// Decommission ends the agent for good. Errors as those of Change.
func (r *Registry) Decommission(ctx context.Context, id uuid.UUID, demand Demand) error {
	_, err := r.revise(ctx, id, func(current Agent, now time.Time) (Revision, error) {
		if err := demand.check(current); err != nil {
			return Revision{}, err
		}
		next := current
		next.Status = Decommissioned
		next = current.revise(next, now)
		messages, err := r.changed(current, next, now, demand.Origin, map[string]any{"from": string(current.Status)})
		return Revision{Agent: next, Messages: messages}, err
	})
	return err
}

// revise runs one change under the agent's lock and, once it is committed, makes a new cutoff known. That the
// revocation store cannot be reached does not fail the change: its lifecycle event is committed with it.
func (r *Registry) revise(ctx context.Context, id uuid.UUID, change func(Agent, time.Time) (Revision, error)) (Agent, error) {
	statusChanged := false
	next, err := r.store.Revise(ctx, id, func(current Agent, now time.Time) (Revision, error) {
		revision, err := change(current, now)
		statusChanged = err == nil && revision.Agent.Status != current.Status
		return revision, err
	})
	if err != nil || !statusChanged {
		return next, err
	}
	cutoffCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cutoffTimeout)
	defer cancel()
	err = r.cutoffs.SetCutoff(cutoffCtx, revocation.Cutoff{
		AgentID:    next.ID,
		Revision:   next.Revision,
		Blocked:    next.Status != Active,
		ValidAfter: next.TokensValidAfter,
	})
	if err != nil {
		r.log.WarnContext(ctx, "revocation store not told of a cutoff, the lifecycle event will tell it",
			slog.Any("agent_id", next.ID), slog.String("status", string(next.Status)), slog.Any("error", err))
	}
	return next, nil
}

// now is the present as it is stored: UTC, whole microseconds.
func (r *Registry) now() time.Time { return r.clock().UTC().Truncate(time.Microsecond) }

// fromAttributes is a new agent with the given fields.
func fromAttributes(given Attributes) Agent {
	fresh := Agent{
		Email:            *given.Email,
		Type:             *given.Type,
		Version:          *given.Version,
		Capabilities:     slices.Clone(*given.Capabilities),
		Owner:            *given.Owner,
		DeploymentEnv:    *given.DeploymentEnv,
		AllowedScopes:    []string{},
		AllowedResources: []string{},
		Status:           Active,
		Revision:         1,
	}
	if given.AllowedResources != nil {
		fresh.AllowedResources = append(fresh.AllowedResources, *given.AllowedResources...)
	}
	if given.AllowedScopes != nil {
		fresh.AllowedScopes = append(fresh.AllowedScopes, *given.AllowedScopes...)
	}
	return fresh
}

// defaultScopes are the system scopes of the registering token without agents:admin, which is given on purpose
// or not at all.
func defaultScopes(caller []string) []string {
	system := authz.SystemScopes()
	scopes := []string{}
	for _, scope := range authz.Effective(caller) {
		if scope != authz.ScopeAgentsAdmin && slices.Contains(system, scope) && !slices.Contains(scopes, scope) {
			scopes = append(scopes, scope)
		}
	}
	return scopes
}

func outcomeOf(fresh, result Agent, err error) string {
	switch code := apperr.CodeOf(err); {
	case err == nil && result.ID == fresh.ID:
		return OutcomeSuccess
	case err == nil:
		return OutcomeReplayed
	case code == apperr.AgentAlreadyExists:
		return OutcomeAlreadyExists
	case code == apperr.IdempotencyKeyReused:
		return OutcomeKeyReused
	case code == apperr.FreeTierLimitExceeded:
		return OutcomeLimitExceeded
	default:
		return OutcomeError
	}
}
