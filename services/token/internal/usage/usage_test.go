package usage

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/credentialsapi"
)

type client struct {
	batches [][]credentialsapi.Use
	err     error
}

func (c *client) RecordUse(_ context.Context, uses []credentialsapi.Use) error {
	if c.err != nil {
		return c.err
	}
	c.batches = append(c.batches, uses)
	return nil
}

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestTheLatestUseOfEachSecretIsReportedOnce(t *testing.T) {
	t.Parallel()
	c := &client{}
	r := New(c, slog.New(slog.DiscardHandler))
	id := uuid.Must(uuid.NewV7())
	r.Used(id, false, noon)
	r.Used(id, false, noon.Add(-time.Second))
	r.Used(id, true, noon)
	r.Used(uuid.Nil, false, noon)
	r.report(t.Context())
	r.report(t.Context())
	require.Len(t, c.batches, 1)
	require.ElementsMatch(t, []credentialsapi.Use{
		{CredentialID: id, UsedAt: noon}, {CredentialID: id, UsedAt: noon, Previous: true},
	}, c.batches[0])
}

func TestWhatCannotBeReportedIsReportedLater(t *testing.T) {
	t.Parallel()
	c := &client{err: errors.New("away")}
	r := New(c, slog.New(slog.DiscardHandler))
	id := uuid.Must(uuid.NewV7())
	r.Used(id, false, noon)
	r.report(t.Context())
	c.err = nil
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, r.Run(ctx), "the end of the service is a time to report")
	require.Equal(t, [][]credentialsapi.Use{{{CredentialID: id, UsedAt: noon}}}, c.batches)
}

func TestBatchesAndMemoryAreBounded(t *testing.T) {
	t.Parallel()
	c := &client{}
	r := New(c, slog.New(slog.DiscardHandler))
	for range credentialsapi.MaxUses + 1 {
		r.Used(uuid.Must(uuid.NewV7()), false, noon)
	}
	r.report(t.Context())
	require.Len(t, c.batches, 2)
	for range capacity + 10 {
		r.Used(uuid.Must(uuid.NewV7()), false, noon)
	}
	require.Len(t, r.uses, capacity)
}
