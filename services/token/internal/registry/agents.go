// Package registry asks the registry service about agents and remembers the
// answers for a short time. It must not decide what a status means.
package registry

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/maypok86/otter/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/pkg/jwk"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/pkg/together"
	"github.com/sentryagent/agentidp/services/token/internal/invalidation"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

const (
	lifetime    = 30 * time.Second
	capacity    = 50_000
	callTimeout = 4 * time.Second
	// underWay is how many calls are under way at a time; who asks meanwhile goes
	// together in the next one.
	underWay  = 4
	cacheName = "agent"
	// gatherFor is how long agents that are to be renewed are collected: nobody waits for them,
	// and to ask for many at once costs a fraction of asking for each.
	gatherFor = 100 * time.Millisecond
	// An agent that is used when one of so many parts of its lifetime is over is renewed.
	renewAfter = 3
)

// Client is the registry's internal API; *registryapi.Client is one.
type Client interface {
	Agents(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]registryapi.Agent, error)
}

// Config is what Agents needs.
type Config struct {
	Client        Client
	Epochs        *invalidation.Epochs
	Clock         func() time.Time
	CacheRequests *prometheus.CounterVec // labels cache, result
}

// Agents finds agents, in memory first. An id that no agent has is remembered too. An agent
// that goes on being used is asked for again before what is remembered of it gets too old,
// while Run runs.
type Agents struct {
	client    Client
	epochs    *invalidation.Epochs
	clock     func() time.Time
	cache     *otter.Cache[uuid.UUID, remembered]
	flights   singleflight.Group
	asked     atomic.Uint64 // how many questions have begun
	trips     *together.Trips[uuid.UUID, answer]
	hit, miss prometheus.Counter

	mu    sync.Mutex
	aging map[uuid.UUID]struct{} // to be renewed
	wake  chan struct{}
}

var _ issue.Agents = (*Agents)(nil)

type remembered struct {
	agent   issue.Agent
	unknown bool
	at      time.Time
	epoch   uint64
	asked   uint64 // the number of the question, where it was asked for its own sake
}

func (r remembered) answer() (issue.Agent, error) {
	if r.unknown {
		return issue.Agent{}, issue.ErrUnknownAgent
	}
	return r.agent, nil
}

// New makes Agents.
func New(cfg Config) *Agents {
	a := &Agents{
		client: cfg.Client,
		epochs: cfg.Epochs,
		clock:  cfg.Clock,
		cache: otter.Must(&otter.Options[uuid.UUID, remembered]{
			MaximumSize:      capacity,
			ExpiryCalculator: otter.ExpiryWriting[uuid.UUID, remembered](lifetime),
		}),
		hit:  cfg.CacheRequests.WithLabelValues(cacheName, "hit"),
		miss: cfg.CacheRequests.WithLabelValues(cacheName, "miss"),

		aging: map[uuid.UUID]struct{}{},
		wake:  make(chan struct{}, 1),
	}
	a.trips = together.New(together.Config{UnderWay: underWay, Most: registryapi.MaxAgents, Timeout: callTimeout}, a.carry)
	return a
}

// Known answers from memory.
func (a *Agents) Known(id uuid.UUID) (issue.Agent, bool, error) {
	entry, ok := a.cache.GetIfPresent(id)
	if !ok || entry.epoch != a.epochs.Of(id) || a.olderThan(entry, 1) {
		a.miss.Inc()
		return issue.Agent{}, false, nil
	}
	a.hit.Inc()
	if a.olderThan(entry, renewAfter) && !entry.unknown {
		a.renew(id)
	}
	agent, err := entry.answer()
	return agent, true, err
}

// olderThan tells whether an entry is older than one of so many parts of its lifetime.
func (a *Agents) olderThan(entry remembered, parts time.Duration) bool {
	return a.clock().Sub(entry.at) > a.epochs.Lifetime(lifetime)/parts
}

func (a *Agents) renew(id uuid.UUID) {
	a.mu.Lock()
	a.aging[id] = struct{}{}
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Run renews agents that are used until ctx is done; it returns nil.
func (a *Agents) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		}
		if idle.For(ctx, gatherFor) == nil {
			a.askAgain(ctx)
		}
	}
}

// askAgain renews what is to be renewed. Who could not be renewed is forgotten at the end of
// its lifetime and asked for by whoever wants to know then.
func (a *Agents) askAgain(ctx context.Context) {
	a.mu.Lock()
	aging := slices.DeleteFunc(slices.Collect(maps.Keys(a.aging)), func(id uuid.UUID) bool {
		entry, ok := a.cache.GetIfPresent(id)
		return ok && !a.olderThan(entry, renewAfter) // renewed since it was used
	})
	clear(a.aging)
	a.mu.Unlock()
	for ids := range slices.Chunk(aging, registryapi.MaxAgents) {
		entries := make([]remembered, len(ids))
		for i, id := range ids {
			entries[i] = remembered{at: a.clock(), epoch: a.epochs.Of(id)}
		}
		for i, answer := range a.carry(ctx, ids) {
			if answer.err != nil {
				return // the others would not be answered either
			}
			a.remember(ids[i], entries[i], answer)
		}
	}
}

// Agent asks the registry, once for all who ask at the same time, together with those
// who ask about other agents, and remembers the answer.
func (a *Agents) Agent(ctx context.Context, id uuid.UUID) (issue.Agent, error) {
	entry, err := a.join(ctx, id)
	if err != nil {
		return issue.Agent{}, err
	}
	return entry.answer()
}

// AgentNow is Agent, but an answer to what was asked before the call does not count: of a
// change that was not told of, the epoch knows nothing. Who finds a question under way waits
// for its end, and shares the next one with all who do.
func (a *Agents) AgentNow(ctx context.Context, id uuid.UUID) (issue.Agent, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	before := a.asked.Load()
	for {
		entry, err := a.join(ctx, id)
		if err != nil {
			return issue.Agent{}, err
		}
		if entry.asked > before {
			return entry.answer()
		}
	}
}

// join asks about an agent, or waits for who does already.
func (a *Agents) join(ctx context.Context, id uuid.UUID) (remembered, error) {
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
		return remembered{}, apperr.Unavailable(ctx.Err())
	case answer := <-result:
		if answer.Err != nil {
			return remembered{}, answer.Err
		}
		return answer.Val.(remembered), nil //nolint:forcetypeassert // ask returns nothing else
	}
}

func (a *Agents) ask(ctx context.Context, id uuid.UUID, epoch uint64) (remembered, error) {
	entry := remembered{at: a.clock(), epoch: epoch, asked: a.asked.Add(1)}
	answer, err := a.trips.Ask(ctx, id)
	if err != nil {
		return remembered{}, apperr.Unavailable(err)
	}
	if answer.err != nil {
		return remembered{}, answer.err
	}
	return a.remember(id, entry, answer), nil
}

// remember completes an entry, whose time and epoch are those of before the registry was asked.
func (a *Agents) remember(id uuid.UUID, entry remembered, answer answer) remembered {
	if entry.unknown = !answer.found; answer.found {
		entry.agent = fromWire(answer.agent)
	}
	a.cache.Set(id, entry)
	return entry
}

// answer is the registry's about one agent.
type answer struct {
	agent registryapi.Agent
	found bool
	err   error
}

func (a *Agents) carry(ctx context.Context, ids []uuid.UUID) []answer {
	answers := make([]answer, len(ids))
	agents, err := a.client.Agents(ctx, ids)
	for i, id := range ids {
		answers[i].agent, answers[i].found = agents[id]
		answers[i].err = err
	}
	return answers
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
		Revision:         agent.Revision,
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
