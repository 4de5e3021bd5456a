// Package hydration keeps Redis, where every service looks, in step with what the
// token schema knows of revoked tokens, and the registry of cut off agents. They are
// the truth; this package must never mark Redis as whole before it is.
package hydration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/pkg/lifecycle"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

const (
	// checkEvery is how soon an emptied Redis is noticed, and a revocation that the replica it was asked of cannot announce:
	// every service is to refuse the token within a second.
	checkEvery = 500 * time.Millisecond
	// recently is how old what was last loaded may be for only the newest revocations to be loaded.
	recently = time.Minute
	// slowest is longer than any transaction that revokes is open: its row may be older than when it can be read.
	slowest = 30 * time.Second
	// retryEvery is the pause between attempts to announce a revocation or a cutoff.
	retryEvery = 200 * time.Millisecond
	// announceWait bounds one attempt.
	announceWait = 500 * time.Millisecond
	// loadWait bounds what loads all that there is, and lookWait a look at what is new: a connection whose other end is gone
	// without a word would be waited for until TCP gives it up, and no revocation be brought meanwhile.
	loadWait = 5 * time.Minute
	lookWait = 5 * time.Second

	pageSize = 1000
)

// Store is the truth about revocations, and keeps cutoffs.
type Store interface {
	// RevocationsAfter reads revocations of tokens that expire after expiring, in
	// the order of their ids from after the given one on.
	RevocationsAfter(ctx context.Context, expiring time.Time, after uuid.UUID, limit int) ([]revocation.Revoked, error)
	// RevokedWithin reads the revocations that were stored within the time before now, by the store's own clock.
	RevokedWithin(ctx context.Context, lately time.Duration) ([]revocation.Revoked, error)
	// RecordCutoff keeps the cutoff unless a newer one is kept already.
	RecordCutoff(ctx context.Context, cutoff revocation.Cutoff, at time.Time) error
}

// Registry is the truth about agents; *registryapi.Client is one.
type Registry interface {
	// Cutoffs reads those of agents whose status changed since then, in the order of the agents from after the given one
	// on: registryapi.MaxCutoffs of them, or all that are left.
	Cutoffs(ctx context.Context, since time.Time, after uuid.UUID) ([]registryapi.Cutoff, error)
}

// Cache is what every service looks at; *revocation.Store is one.
type Cache interface {
	Load(ctx context.Context, revoked []revocation.Revoked, cutoffs []revocation.Cutoff) error
	Hydrate(ctx context.Context, load func(ctx context.Context) error) error
	Hydrated(ctx context.Context) (bool, error)
}

// Config is what a Hydrator needs.
type Config struct {
	Store    Store
	Registry Registry
	Cache    Cache
	Clock    func() time.Time
	Log      *slog.Logger
}

// Hydrator brings what the store and the registry know to Redis.
type Hydrator struct {
	Config

	mu          sync.Mutex
	unannounced map[string]revocation.Revoked
	cutoffs     map[uuid.UUID]revocation.Cutoff // unannounced as well
	wake        chan struct{}

	brought map[string]bool // of the lately revoked, the tokens that Run has brought already
}

var _ issue.Announcer = (*Hydrator)(nil)

// New makes a Hydrator.
func New(cfg Config) *Hydrator {
	return &Hydrator{
		Config: cfg, unannounced: map[string]revocation.Revoked{}, cutoffs: map[uuid.UUID]revocation.Cutoff{},
		wake: make(chan struct{}, 1),
	}
}

// Announce brings a stored revocation to Redis, at once if possible, and else
// again and again in the background.
func (h *Hydrator) Announce(ctx context.Context, revoked revocation.Revoked) {
	attempt, cancel := context.WithTimeout(context.WithoutCancel(ctx), announceWait)
	defer cancel()
	err := h.Cache.Load(attempt, []revocation.Revoked{revoked}, nil)
	if err == nil {
		return
	}
	h.Log.WarnContext(ctx, "a revocation waits for redis", slog.Any("error", err))
	h.mu.Lock()
	h.unannounced[revoked.TokenID] = revoked
	h.mu.Unlock()
	h.wakeUp()
}

func (h *Hydrator) wakeUp() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// retry announces what waits; done is false if something still does.
func (h *Hydrator) retry(ctx context.Context) (done bool) {
	h.mu.Lock()
	waiting := make([]revocation.Revoked, 0, len(h.unannounced))
	for id, revoked := range h.unannounced {
		if h.Clock().After(revoked.ExpiresAt.Add(revocation.Margin)) {
			delete(h.unannounced, id)
			continue
		}
		waiting = append(waiting, revoked)
	}
	cutoffs := slices.Collect(maps.Values(h.cutoffs))
	h.mu.Unlock()
	attempt, cancel := context.WithTimeout(ctx, announceWait)
	defer cancel()
	if err := h.Cache.Load(attempt, waiting, cutoffs); err != nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, revoked := range waiting {
		delete(h.unannounced, revoked.TokenID)
	}
	for _, cutoff := range cutoffs {
		if h.cutoffs[cutoff.AgentID].Revision == cutoff.Revision {
			delete(h.cutoffs, cutoff.AgentID)
		}
	}
	return len(h.unannounced)+len(h.cutoffs) == 0
}

// RetryAnnouncements announces what could not be announced at once, until ctx is done.
func (h *Hydrator) RetryAnnouncements(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.wake:
		}
		for ctx.Err() == nil && !h.retry(ctx) {
			_ = idle.For(ctx, retryEvery)
		}
	}
}

func cutoffOf(agent registryapi.Cutoff) revocation.Cutoff {
	return revocation.Cutoff{
		AgentID:    agent.AgentID,
		Revision:   agent.Revision,
		Blocked:    agent.Status != registryapi.StatusActive,
		ValidAfter: agent.TokensValidAfter,
	}
}

// Agent takes a change of an agent in: it is kept if it refuses tokens. An error
// means that it has to be handed in again.
func (h *Hydrator) Agent(ctx context.Context, change lifecycle.AgentChanged) error {
	cutoff := cutoffOf(registryapi.Cutoff{
		AgentID: change.AgentID, Status: change.Status, Revision: change.Revision, TokensValidAfter: change.TokensValidAfter,
	})
	if !cutoff.Blocked && cutoff.ValidAfter.IsZero() {
		return nil // no token of it was ever refused
	}
	if err := h.Store.RecordCutoff(ctx, cutoff, h.Clock()); err != nil {
		return err
	}
	if h.behind() {
		// Changes come one after the other: the next ones must get into the store without waiting for Redis as well.
		h.postpone(cutoff)
		return errBehind
	}
	attempt, cancel := context.WithTimeout(ctx, announceWait)
	defer cancel()
	err := h.Cache.Load(attempt, nil, []revocation.Cutoff{cutoff})
	if err != nil {
		h.postpone(cutoff)
	}
	return err
}

var errBehind = errors.New("redis has not taken yet what waits for it")

// behind tells whether something waits for Redis.
func (h *Hydrator) behind() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.unannounced)+len(h.cutoffs) > 0
}

// postpone has the cutoff announced in the background. Its change is handed in again as well, but later and later, and
// a Redis that was only out of reach is believed as soon as it is back.
func (h *Hydrator) postpone(cutoff revocation.Cutoff) {
	h.mu.Lock()
	if known, ok := h.cutoffs[cutoff.AgentID]; !ok || known.Revision < cutoff.Revision {
		h.cutoffs[cutoff.AgentID] = cutoff
	}
	h.mu.Unlock()
	h.wakeUp()
}

// Run hydrates Redis whenever it has no mark, and brings to it what was revoked at any
// replica, until ctx is done.
func (h *Hydrator) Run(ctx context.Context) error {
	var loaded time.Time
	var outage idle.Outage
	idle.Every(ctx, checkEvery, func(ctx context.Context) {
		now := h.Clock()
		err := h.keepUp(ctx, now.Sub(loaded))
		if err == nil {
			loaded = now
		}
		if outage.Begins(ctx, err) {
			h.Log.WarnContext(ctx, "redis is not in step", slog.Any("error", err))
		}
	})
	return nil
}

// keepUp brings Redis into step, once. What a replica stored it announces itself; but it may have been killed before it
// did, or be cut off from a Redis that the services still reach and believe, and then another replica has to do it. age is
// how long ago keepUp last did its work.
func (h *Hydrator) keepUp(ctx context.Context, age time.Duration) error {
	hydrated, err := h.Cache.Hydrated(ctx)
	if err != nil {
		return err
	}
	if hydrated && age <= recently {
		return h.look(ctx, age)
	}
	ctx, cancel := context.WithTimeout(ctx, loadWait)
	defer cancel()
	if !hydrated {
		return h.hydrate(ctx)
	}
	_, err = h.loadRevocations(ctx)
	return err
}

func (h *Hydrator) look(ctx context.Context, age time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	lately, err := h.Store.RevokedWithin(ctx, age+slowest)
	if err != nil {
		return err
	}
	return h.bring(ctx, lately)
}

// bring brings those of the lately revoked that are not there yet. Each is read for as long as slowest; after a thousand
// revocations in a moment Redis is not to have them all sixty times. Redis cannot have lost one and kept its mark.
func (h *Hydrator) bring(ctx context.Context, lately []revocation.Revoked) error {
	known := make(map[string]bool, len(lately))
	fresh := lately[:0:0]
	for _, revoked := range lately {
		known[revoked.TokenID] = true
		if !h.brought[revoked.TokenID] {
			fresh = append(fresh, revoked)
		}
	}
	if err := h.Cache.Load(ctx, fresh, nil); err != nil {
		return err
	}
	h.brought = known
	return nil
}

// hydrate fills Redis and marks it as whole. The cutoffs are the registry's own, read after the hydration began: the store
// has those that came by the stream, of which nobody here can tell whether it has brought all. A later cutoff the registry
// brings to Redis itself. So without the registry there is no mark, and every service asks the token service.
func (h *Hydrator) hydrate(ctx context.Context) error {
	var revocations, cutoffs int
	err := h.Cache.Hydrate(ctx, func(ctx context.Context) error {
		var err error
		if cutoffs, err = h.loadCutoffs(ctx); err != nil {
			return err
		}
		revocations, err = h.loadRevocations(ctx)
		return err
	})
	if err != nil {
		return err
	}
	h.Log.InfoContext(ctx, "redis is hydrated", slog.Int("revocations", revocations), slog.Int("cutoffs", cutoffs))
	return nil
}

func (h *Hydrator) loadRevocations(ctx context.Context) (count int, err error) {
	now := h.Clock()
	for after := uuid.Nil; ; {
		page, err := h.Store.RevocationsAfter(ctx, now.Add(-revocation.Margin), after, pageSize)
		if err != nil {
			return count, err
		}
		if err := h.Cache.Load(ctx, page, nil); err != nil {
			return count, err
		}
		count += len(page)
		if len(page) < pageSize {
			return count, nil
		}
		if after, err = uuid.Parse(page[len(page)-1].TokenID); err != nil {
			return count, fmt.Errorf("jti of a stored revocation: %w", err)
		}
	}
}

func (h *Hydrator) loadCutoffs(ctx context.Context) (count int, err error) {
	since := h.Clock().Add(-revocation.KeyLifetime)
	for after := uuid.Nil; ; {
		page, err := h.Registry.Cutoffs(ctx, since, after)
		if err != nil {
			return count, err
		}
		cutoffs := make([]revocation.Cutoff, len(page))
		for i, agent := range page {
			cutoffs[i] = cutoffOf(agent)
		}
		if err := h.Cache.Load(ctx, nil, cutoffs); err != nil {
			return count, err
		}
		count += len(page)
		if len(page) < registryapi.MaxCutoffs {
			return count, nil
		}
		after = page[len(page)-1].AgentID
	}
}
