package agent_test

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/services/registry/internal/agent"
)

// fakeStore keeps agents in memory, and what would have been stored beside them.
type fakeStore struct {
	agents   map[uuid.UUID]agent.Agent
	keys     map[uuid.UUID]agent.Keys
	entries  []agent.Entry
	messages []outbox.Message
	err      error
	operator *uuid.UUID
	replay   *agent.Agent
	clock    func() time.Time
}

var _ agent.Store = (*fakeStore)(nil)

func (s *fakeStore) Register(_ context.Context, entry agent.Entry) (agent.Agent, error) {
	s.entries = append(s.entries, entry)
	if s.err != nil {
		return agent.Agent{}, s.err
	}
	if s.replay != nil {
		return *s.replay, nil
	}
	s.agents[entry.Agent.ID] = entry.Agent
	s.messages = append(s.messages, entry.Messages...)
	return entry.Agent, nil
}

func (s *fakeStore) Bootstrap(_ context.Context, entry agent.Entry) (agent.Agent, error) {
	s.entries = append(s.entries, entry)
	if s.err != nil {
		return agent.Agent{}, s.err
	}
	if s.operator == nil || entry.Another && s.agents[*s.operator].Status == agent.Decommissioned {
		s.operator = &entry.Agent.ID
		s.agents[entry.Agent.ID] = entry.Agent
		s.messages = append(s.messages, entry.Messages...)
	}
	return s.agents[*s.operator], nil
}

func (s *fakeStore) Agent(_ context.Context, id uuid.UUID) (agent.Agent, error) {
	found, ok := s.agents[id]
	if !ok {
		return agent.Agent{}, agent.ErrNotFound
	}
	return found, nil
}

func (s *fakeStore) CutOff(context.Context, time.Time, uuid.UUID, int) ([]agent.Agent, error) {
	return nil, s.err
}

func (s *fakeStore) List(_ context.Context, filter agent.Filter, _ paging.Page) (paging.Listing[agent.Agent], error) {
	var total paging.Total
	for _, one := range s.agents {
		if filter.Email == nil || one.Email == *filter.Email {
			total.Items++
		}
	}
	return paging.Listing[agent.Agent]{Total: total}, s.err
}

func (s *fakeStore) Revise(_ context.Context, id uuid.UUID, change func(agent.Agent, time.Time) (agent.Revision, error)) (agent.Agent, error) {
	current, ok := s.agents[id]
	if !ok {
		return agent.Agent{}, agent.ErrNotFound
	}
	revision, err := change(current, s.clock().UTC().Truncate(time.Microsecond))
	if err != nil {
		return agent.Agent{}, err
	}
	if s.err != nil {
		return agent.Agent{}, s.err
	}
	s.agents[id] = revision.Agent
	s.messages = append(s.messages, revision.Messages...)
	return revision.Agent, nil
}

func (s *fakeStore) Agents(ctx context.Context, ids []uuid.UUID) (all []agent.WithKeys, err error) {
	for _, id := range ids {
		if found, err := s.Agent(ctx, id); err == nil {
			all = append(all, agent.WithKeys{Agent: found, Keys: s.keysOf(id)})
		} else if apperr.CodeOf(err) != apperr.AgentNotFound {
			return nil, err
		}
	}
	return all, nil
}

func (s *fakeStore) keysOf(id uuid.UUID) *agent.Keys {
	if keys, ok := s.keys[id]; ok {
		return &keys
	}
	return nil
}

func (s *fakeStore) ReviseKeys(
	ctx context.Context, id uuid.UUID, change func(agent.Agent, *agent.Keys, time.Time) (agent.Revision, *agent.Keys, error),
) (agent.Agent, error) {
	var next *agent.Keys
	changed, err := s.Revise(ctx, id, func(current agent.Agent, now time.Time) (agent.Revision, error) {
		revision, keys, err := change(current, s.keysOf(id), now)
		next = keys
		return revision, err
	})
	if err != nil {
		return agent.Agent{}, err
	}
	if delete(s.keys, id); next != nil {
		s.keys[id] = *next
	}
	return changed, nil
}

// fakeCutoffs remembers what it was told by those who have not left.
type fakeCutoffs struct {
	told []revocation.Cutoff
	err  error
}

func (c *fakeCutoffs) SetCutoff(ctx context.Context, cutoff revocation.Cutoff) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.told = append(c.told, cutoff)
	return c.err
}
