// Package registry asks the registry service about agents and remembers the
// answers for a short time. It must not decide what a status means.
package registry

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/maypok86/otter/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/jwk"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/services/token/internal/invalidation"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

const (
	lifetime    = 30 * time.Second
	capacity    = 50_000
	callTimeout = 4 * time.Second
	cacheName   = "agent"
)

// Client is the registry's internal API; *registryapi.Client is one.
type Client interface {
	Agent(ctx context.Context, id uuid.UUID) (registryapi.Agent, error)
}

// Config is what Agents needs.
type Config struct {
	Client        Client
	Epochs        *invalidation.Epochs
	Clock         func() time.Time
	CacheRequests *prometheus.CounterVec // labels cache, result
}

// Agents finds agents, in memory first. An id that no agent has is remembered too.
type Agents struct {
	client    Client
	epochs    *invalidation.Epochs
	clock     func() time.Time
	cache     *otter.Cache[uuid.UUID, remembered]
	flights   singleflight.Group
	hit, miss prometheus.Counter
}

var _ issue.Agents = (*Agents)(nil)

type remembered struct {
	agent   issue.Agent
	unknown bool
	at      time.Time
	epoch   uint64
}

func (r remembered) answer() (issue.Agent, error) {
	if r.unknown {
		return issue.Agent{}, issue.ErrUnknownAgent
	}
	return r.agent, nil
}

// New makes Agents.
func New(cfg Config) *Agents {
	return &Agents{
		client: cfg.Client,
		epochs: cfg.Epochs,
		clock:  cfg.Clock,
		cache: otter.Must(&otter.Options[uuid.UUID, remembered]{
			MaximumSize:      capacity,
			ExpiryCalculator: otter.ExpiryWriting[uuid.UUID, remembered](lifetime),
		}),
		hit:  cfg.CacheRequests.WithLabelValues(cacheName, "hit"),
		miss: cfg.CacheRequests.WithLabelValues(cacheName, "miss"),
	}
}

// Known answers from memory.
func (a *Agents) Known(id uuid.UUID) (issue.Agent, bool, error) {
	entry, ok := a.cache.GetIfPresent(id)
	if !ok || entry.epoch != a.epochs.Of(id) || a.clock().Sub(entry.at) > a.epochs.Lifetime(lifetime) {
		a.miss.Inc()
		return issue.Agent{}, false, nil
	}
	a.hit.Inc()
	agent, err := entry.answer()
	return agent, true, err
}

// Agent asks the registry, once for all who ask at the same time, and remembers the answer.
func (a *Agents) Agent(ctx context.Context, id uuid.UUID) (issue.Agent, error) {
	epoch := a.epochs.Of(id)
	// The epoch is part of the key: who asks after a change must not be given an
	// answer that was asked for before it.
	key := id.String() + "/" + strconv.FormatUint(epoch, 10)
	result := a.flights.DoChan(key, func() (any, error) {
		// Not the first asker's context: others wait for the same answer.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		return a.ask(ctx, id, epoch)
	})
	select {
	case <-ctx.Done():
		return issue.Agent{}, apperr.Unavailable(ctx.Err())
	case answer := <-result:
		if answer.Err != nil {
			return issue.Agent{}, answer.Err
		}
		return answer.Val.(remembered).answer() //nolint:forcetypeassert // ask returns nothing else
	}
}

func (a *Agents) ask(ctx context.Context, id uuid.UUID, epoch uint64) (remembered, error) {
	entry := remembered{at: a.clock(), epoch: epoch}
	agent, err := a.client.Agent(ctx, id)
	var refused *apperr.Error
	switch {
	case err == nil:
		entry.agent = fromWire(agent)
	case errors.As(err, &refused) && refused.Code == apperr.AgentNotFound:
		entry.unknown = true
	default:
		return remembered{}, err
	}
	a.cache.Set(id, entry)
	return entry, nil
}

func fromWire(agent registryapi.Agent) issue.Agent {
	return issue.Agent{
		ID:               agent.AgentID,
		Status:           issue.Status(agent.Status),
		Type:             agent.AgentType,
		Owner:            agent.Owner,
		DeploymentEnv:    agent.DeploymentEnv,
		AllowedScopes:    agent.AllowedScopes,
		Capabilities:     agent.Capabilities,
		AllowedResources: agent.AllowedResources,
		TokensValidAfter: agent.TokensValidAfter,
		Keys:             keysFromWire(agent.Keys),
	}
}

// keysFromWire reads a registered set once for as long as the agent is remembered.
func keysFromWire(keys *registryapi.AgentKeys) issue.ClientKeys {
	switch {
	case keys == nil:
		return issue.ClientKeys{}
	case keys.JWKSURI != "":
		return issue.ClientKeys{URI: keys.JWKSURI}
	default:
		set, err := jwk.ReadClientSet(keys.JWKS)
		return issue.ClientKeys{Set: set, Unreadable: err}
	}
}
