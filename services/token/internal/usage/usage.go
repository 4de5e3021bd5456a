// Package usage tells the credentials service when credentials were used, in
// batches and after the fact. It must not delay a request, nor fail one: what is too
// much to remember is dropped.
package usage

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/credentialsapi"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

const (
	reportEvery = 20 * time.Second
	reportWait  = 5 * time.Second
	// capacity bounds the credentials that are remembered between two reports.
	capacity = 100_000
)

// Client is the credentials service's internal API; *credentialsapi.Client is one.
type Client interface {
	RecordUse(ctx context.Context, uses []credentialsapi.Use) error
}

type secret struct {
	credentialID uuid.UUID
	previous     bool
}

// Reporter collects uses. It is safe for concurrent use.
type Reporter struct {
	client Client
	log    *slog.Logger

	mu   sync.Mutex
	uses map[secret]time.Time
}

var _ issue.Uses = (*Reporter)(nil)

// New makes a Reporter; Run reports.
func New(client Client, log *slog.Logger) *Reporter {
	return &Reporter{client: client, log: log, uses: map[secret]time.Time{}}
}

// Used notes that the credential was used; the latest time counts.
func (r *Reporter) Used(credentialID uuid.UUID, previous bool, at time.Time) {
	if credentialID == uuid.Nil {
		return
	}
	key := secret{credentialID: credentialID, previous: previous}
	r.mu.Lock()
	defer r.mu.Unlock()
	if known, ok := r.uses[key]; (ok && known.Before(at)) || (!ok && len(r.uses) < capacity) {
		r.uses[key] = at
	}
}

// Run reports every 20 s until ctx is done, and once more then.
func (r *Reporter) Run(ctx context.Context) error {
	ticker := time.NewTicker(reportEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			r.report(context.WithoutCancel(ctx))
			return nil
		case <-ticker.C:
			r.report(ctx)
		}
	}
}

// report tells what was collected; what cannot be told is kept for the next time.
func (r *Reporter) report(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, reportWait)
	defer cancel()
	r.mu.Lock()
	collected := r.uses
	r.uses = make(map[secret]time.Time)
	r.mu.Unlock()
	uses := make([]credentialsapi.Use, 0, len(collected))
	for key, at := range collected {
		uses = append(uses, credentialsapi.Use{CredentialID: key.credentialID, UsedAt: at, Previous: key.previous})
	}
	for chunk := range slices.Chunk(uses, credentialsapi.MaxUses) {
		if err := r.client.RecordUse(ctx, chunk); err != nil {
			r.log.InfoContext(ctx, "uses of credentials wait to be reported", slog.Int("uses", len(chunk)), slog.Any("error", err))
			for _, use := range chunk {
				r.Used(use.CredentialID, use.Previous, use.UsedAt)
			}
		}
	}
}
