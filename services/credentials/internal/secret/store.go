package secret

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/pkg/registryapi"
)

// Store keeps the credentials. Its decide functions run inside the transaction,
// with the rows locked that they are shown: they must be quick and must call
// nobody. What they return, and what a record has Unwanted, is stored together with the change; when they return
// an error, nothing is stored and the error comes back as it is. A store that
// cannot be reached answers apperr.ServiceUnavailable.
type Store interface {
	// Standing counts at a time, locking nothing.
	Standing(ctx context.Context, agentID uuid.UUID, at time.Time) (Standing, error)
	// Insert locks the agent for every other Insert and Decommission, shows its
	// standing, and stores the credential decided on; ErrIDTaken where there is one of its id.
	Insert(ctx context.Context, agentID uuid.UUID, at time.Time, decide func(Standing) (Record, []outbox.Message, error)) error
	// List gives one page of an agent's credentials, those of one status or, with nil, all.
	List(ctx context.Context, agentID uuid.UUID, status *Status, page paging.Page) (paging.Listing[Credential], error)
	// Find answers apperr.CredentialNotFound when the agent has no such credential.
	Find(ctx context.Context, agentID, credentialID uuid.UUID) (Credential, error)
	// Change locks one credential and stores what decide made of it. Errors as Find.
	Change(ctx context.Context, agentID, credentialID uuid.UUID, decide func(*Record) ([]outbox.Message, error)) error
	// Decommission marks the agent for good, and stores what decide made of each
	// of its active credentials: with the mark of those that have not expired at the
	// time, and then of the others, in portions that stay done where a later one fails.
	// Doing it again is harmless.
	Decommission(ctx context.Context, agentID uuid.UUID, at time.Time, decide func(*Record) ([]outbox.Message, error)) error
	// Candidates are the active credentials of an agent with a secret, current or
	// previous, of that fingerprint: nearly always none or one. It reads the
	// database each time.
	Candidates(ctx context.Context, agentID uuid.UUID, f Fingerprint) ([]Record, error)
	// Screen tells of each claim whether the agent has an active credential with such
	// a secret, current or previous, that has not ended at the time. It is one
	// question however many they are.
	Screen(ctx context.Context, claims []Claim, at time.Time) ([]bool, error)
	// RecordUses moves last uses forward, never back. Unknown ids are left out.
	RecordUses(ctx context.Context, uses []Use) error
	// DueDeletions takes the oldest deletions that are due, and keeps them from other
	// takers for the lease. What is due goes by the store's clock: it is one for all
	// replicas, and what one of them deletes too early nobody can bring back.
	DueDeletions(ctx context.Context, lease time.Duration, most int) ([]Deletion, error)
	// Deleted takes a deletion away that is done.
	Deleted(ctx context.Context, id int64) error
	// CountDeletions that are due, taken or not.
	CountDeletions(ctx context.Context) (int, error)
}

// Registry knows the agents; registryapi.Client is one.
type Registry interface {
	Agent(ctx context.Context, id uuid.UUID) (registryapi.Agent, error)
}

// Standing of an agent with this service.
type Standing struct {
	Known          bool // it was heard of here before
	Decommissioned bool
	Active         int // active credentials whose expiry has not passed
}

// Use says that a secret of a credential proved its client's identity.
type Use struct {
	CredentialID uuid.UUID
	UsedAt       time.Time
	Previous     bool // it was the secret before the last rotation
}
