package outbox

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/timeid"
)

const (
	batchSize    = 500
	pollInterval = time.Second
	slowestPoll  = 5 * time.Second
	countEvery   = 2 * time.Second
	listenRetry  = time.Second
	sqlTimeout   = 5 * time.Second
	defaultLease = 15 * time.Second
	// ackWait is a bit more than the connection's own timeout of an ack.
	ackWait = 6 * time.Second
	// postponement of a message that JetStream refused, so that the others pass it.
	postponement = 30 * time.Second
)

// RelayConfig is what a relay needs.
type RelayConfig struct {
	DB        *pgdb.DB
	Conn      *natsx.Conn
	Telemetry *telemetry.Telemetry
	Clock     func() time.Time
	// Lease is how long a relay that took rows keeps them from the others; another one takes them
	// after that, as a relay that was killed gives nothing back. 0 means 15 s.
	Lease time.Duration
}

// Relay publishes what stands in the outbox.
type Relay struct {
	outbox *Outbox
	db     *pgdb.DB
	conn   *natsx.Conn
	tel    *telemetry.Telemetry
	log    *slog.Logger
	clock  func() time.Time
	lease  time.Duration
}

// NewRelay makes a relay; any number of them, in any number of replicas, may share one outbox.
func (o *Outbox) NewRelay(cfg RelayConfig) *Relay {
	r := &Relay{
		outbox: o, db: cfg.DB, conn: cfg.Conn, tel: cfg.Telemetry,
		log: cfg.Telemetry.Log.With(slog.String("outbox", o.channel)), clock: cfg.Clock, lease: cfg.Lease,
	}
	if r.lease <= 0 {
		r.lease = defaultLease
	}
	return r
}

// Run publishes until ctx ends, finishes the batch it is at, and returns nil. Nothing stops it
// before: a database or a NATS server that is away is waited for.
func (r *Relay) Run(ctx context.Context) error {
	// Lifecycle messages go on their own, so that a stream that takes no audit events does not
	// hold up what makes a suspended agent's tokens invalid.
	lanes := []*lane{
		{relay: r, claim: r.outbox.sql.claimOrdered, wake: make(chan struct{}, 1)},
		{relay: r, claim: r.outbox.sql.claimUnordered, wake: make(chan struct{}, 1)},
	}
	wakeAll := func() {
		for _, l := range lanes {
			select {
			case l.wake <- struct{}{}:
			default: // it is awake already
			}
		}
	}
	defer r.conn.OnConnect(wakeAll)()
	var group errgroup.Group
	for _, l := range lanes {
		group.Go(func() error { l.run(ctx); return nil })
	}
	group.Go(func() error { r.listen(ctx, wakeAll); return nil })
	group.Go(func() error { r.count(ctx); return nil })
	return group.Wait()
}

// listen wakes the lanes for every commit that appended something. What it misses while it has no
// connection is found by polling.
func (r *Relay) listen(ctx context.Context, wake func()) {
	for failures := 0; ; failures++ {
		err := r.listenOnce(ctx, wake)
		if ctx.Err() != nil {
			return
		}
		if failures%60 == 0 { // once a minute is enough while the database is away
			r.log.WarnContext(ctx, "outbox cannot listen and polls instead", slog.Any("error", err))
		}
		if idle.For(ctx, listenRetry) != nil {
			return
		}
	}
}

func (r *Relay) listenOnce(ctx context.Context, wake func()) error {
	// A connection of its own: one from the pool would be missing there for good.
	conn, err := pgx.ConnectConfig(ctx, r.db.Config().ConnConfig)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), sqlTimeout)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if _, err := conn.Exec(ctx, r.outbox.sql.listen); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	wake()
	for {
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return fmt.Errorf("wait for a notification: %w", err)
		}
		wake()
	}
}

// count keeps agentidp_outbox_pending and agentidp_outbox_oldest_seconds. While the database is away the one keeps its
// last value, and the other grows: an event that waits does not get younger.
func (r *Relay) count(ctx context.Context) {
	var oldest time.Time
	idle.Every(ctx, countEvery, func(ctx context.Context) {
		var pending int64
		var first *uuid.UUID
		query, cancel := context.WithTimeout(ctx, sqlTimeout)
		if err := r.db.QueryRow(query, r.outbox.sql.count).Scan(&pending, &first); err == nil {
			oldest = madeAt(first)
			r.tel.Metrics.OutboxPending.Set(float64(pending))
		}
		cancel()
		r.tel.Metrics.OutboxOldest.Set(age(oldest, r.clock()))
	})
}

// madeAt is the time in an id, zero for none and for one that has no time in it.
func madeAt(id *uuid.UUID) time.Time {
	if id == nil {
		return time.Time{}
	}
	at, _ := timeid.Of(*id)
	return at
}

func age(of, now time.Time) float64 {
	if of.IsZero() {
		return 0
	}
	return max(0, now.Sub(of).Seconds())
}
