// Package invalidation says whether what was remembered about an agent may still
// be believed. It holds nothing itself: a cache notes the epoch of the agent when
// it starts to ask, and what it has is stale once the epoch has moved on. So a
// change that arrives while an answer is on its way spoils that answer too.
package invalidation

import (
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// stripes is how many groups the agents fall into. A change of one agent makes
// its group forget, which costs the others one question each.
const stripes = 4096

// blindLifetime is how long anything is believed while no changes arrive.
const blindLifetime = 5 * time.Second

// Epochs counts the changes of agents. The zero value does not work: use New.
type Epochs struct {
	// following tells whether changes arrive right now.
	following func() bool
	all       atomic.Uint64
	groups    [stripes]atomic.Uint64
}

// New makes Epochs. following tells whether changes arrive right now.
func New(following func() bool) *Epochs { return &Epochs{following: following} }

func group(agentID uuid.UUID) uint16 {
	// The end of a UUID is random in versions 4 and 7.
	return binary.BigEndian.Uint16(agentID[14:]) % stripes
}

// Of is the agent's epoch now. It only ever grows.
func (e *Epochs) Of(agentID uuid.UUID) uint64 {
	return e.all.Load() + e.groups[group(agentID)].Load()
}

// Changed makes everything about the agent stale.
func (e *Epochs) Changed(agentID uuid.UUID) { e.groups[group(agentID)].Add(1) }

// Missed makes everything about all agents stale: changes may have been missed.
func (e *Epochs) Missed() { e.all.Add(1) }

// Lifetime bounds how old an answer may be: as it is, or 5 s while no changes arrive.
func (e *Epochs) Lifetime(normal time.Duration) time.Duration {
	if e.following() {
		return normal
	}
	return min(normal, blindLifetime)
}
