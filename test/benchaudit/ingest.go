package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/mod/sumdb/note"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/test/internal/load"
)

const (
	// unacked bounds what is published and not acknowledged, behind what waits in the stream.
	unacked, behind = 1000, 20_000
	lagRate         = 2000 // events per second
	lagTick         = 5 * time.Millisecond
	settleWithin    = 2 * time.Minute
	// sampleEvery is how often the size of the tree is looked at.
	sampleEvery = 5 * time.Millisecond
)

// publisher publishes events as services do, and remembers when.
type publisher struct {
	stream jetstream.JetStream
	make   *generator
	acks   []jetstream.PubAckFuture
	sent   map[uuid.UUID]time.Time
	count  atomic.Int64
}

func (b *bench) publisher(part uint64) *publisher {
	return &publisher{stream: b.rig.JetStream(), make: newGenerator(b.seed, part), sent: map[uuid.UUID]time.Time{}}
}

// publish sends one event, and waits for the acknowledgement of one before.
func (p *publisher) publish(ctx context.Context) error {
	now := time.Now()
	e := p.make.make(now)
	message := &nats.Msg{Subject: "audit.token." + e.action, Data: e.payload, Header: nats.Header{jetstream.MsgIDHeader: {e.id.String()}}}
	ack, err := p.stream.PublishMsgAsync(message)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	p.sent[e.id] = now
	p.count.Add(1)
	if p.acks = append(p.acks, ack); len(p.acks) > unacked {
		return p.settle(ctx, 1)
	}
	return nil
}

// settle waits for the first n acknowledgements.
func (p *publisher) settle(ctx context.Context, n int) error {
	for _, ack := range p.acks[:n] {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			return fmt.Errorf("publish: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p.acks = p.acks[n:]
	return nil
}

func (b *bench) size(ctx context.Context) (size int64, err error) {
	return size, b.rig.DB().QueryRow(ctx, "SELECT size FROM audit.tree").Scan(&size)
}

// ingest publishes as fast as events are stored, and measures how fast that is.
func (b *bench) ingest(ctx context.Context) error {
	begin, err := b.size(ctx)
	if err != nil {
		return err
	}
	publishing, stop := context.WithCancel(ctx)
	defer stop()
	p := b.publisher(3 << 32)
	var stored atomic.Int64
	ended := make(chan error, 1)
	go func() {
		for publishing.Err() == nil {
			if p.count.Load()-stored.Load() > behind {
				_ = idle.For(publishing, time.Millisecond)
				continue
			}
			if err := p.publish(ctx); err != nil {
				ended <- err
				return
			}
		}
		ended <- p.settle(ctx, len(p.acks))
	}()
	look := func(until time.Duration) (int64, error) {
		for begun := time.Now(); time.Since(begun) < until && ctx.Err() == nil; _ = idle.For(ctx, 20*sampleEvery) {
			size, err := b.size(ctx)
			if err != nil {
				return 0, err
			}
			stored.Store(size - begin)
		}
		return b.size(ctx)
	}
	first, err := look(2 * time.Second)
	if err != nil {
		return err
	}
	cpu, err := b.rig.CPU()
	if err != nil {
		return err
	}
	measured := time.Now()
	last, err := look(time.Duration(10 * b.seconds * float64(time.Second)))
	took := time.Since(measured).Seconds()
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		return err
	}
	b.results.IngestPerSecond = float64(last-first) / took
	if b.results.IngestCPUms, err = b.cpuSince(cpu, last-first); err != nil {
		return err
	}
	b.log("   %.0f per second", b.results.IngestPerSecond)
	return b.balance(ctx, begin, p)
}

// cpuSince is the processor time of each process since before, in ms per event.
func (b *bench) cpuSince(before map[string]time.Duration, events int64) (map[string]float64, error) {
	after, err := b.rig.CPU()
	per := make(map[string]float64, len(after))
	for name, cpu := range after {
		per[name] = milliseconds(cpu-before[name]) / float64(max(events, 1))
	}
	return per, err
}

// balance waits until all is stored, and looks whether it was stored once.
func (b *bench) balance(ctx context.Context, begin int64, p *publisher) error {
	if _, err := b.rig.Settle(ctx, settleWithin); err != nil {
		return err
	}
	var rows, ids int64
	if err := b.rig.DB().QueryRow(ctx, "SELECT count(*), count(DISTINCT event_id) FROM audit.events WHERE leaf_index >= $1", begin).Scan(&rows, &ids); err != nil {
		return err
	}
	if rows != p.count.Load() || ids != rows {
		return fmt.Errorf("%d events were published, %d are stored, %d different ones", p.count.Load(), rows, ids)
	}
	return nil
}

// sighting is when the head of the log was first seen to have a size.
type sighting struct {
	size int64
	at   time.Time
}

// watch looks at the head of the log until stop, which answers what was seen.
func (b *bench) watch(ctx context.Context) (stop func() ([]sighting, error)) {
	ctx, cancel := context.WithCancel(ctx)
	var seen []sighting
	ended := make(chan error, 1)
	go func() {
		for {
			size, err := b.size(ctx)
			if err != nil {
				if ctx.Err() != nil {
					err = nil
				}
				ended <- err
				return
			}
			if len(seen) == 0 || seen[len(seen)-1].size != size {
				seen = append(seen, sighting{size, time.Now()})
			}
			_ = idle.For(ctx, sampleEvery)
		}
	}()
	return func() ([]sighting, error) {
		cancel()
		err := <-ended
		return seen, err
	}
}

// steadily publishes lagRate events per second for as long as ingest takes.
func (b *bench) steadily(ctx context.Context, p *publisher) error {
	tick := time.NewTicker(lagTick)
	defer tick.Stop()
	started := time.Now()
	for length := time.Duration(10 * b.seconds * float64(time.Second)); time.Since(started) < length; {
		for due := int64(time.Since(started).Seconds() * lagRate); p.count.Load() < due; {
			if err := p.publish(ctx); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	b.results.LagRate = float64(p.count.Load()) / time.Since(started).Seconds()
	return p.settle(ctx, len(p.acks))
}

// lag publishes at a steady rate and measures how long each event takes until the
// head of the log covers it.
func (b *bench) lag(ctx context.Context) error {
	begin, err := b.size(ctx)
	if err != nil {
		return err
	}
	stop := b.watch(ctx)
	p := b.publisher(4 << 32)
	if err = b.steadily(ctx, p); err == nil {
		err = b.balance(ctx, begin, p)
	}
	_ = idle.For(ctx, 10*sampleEvery) // until the last size was seen
	seen, watchErr := stop()
	if err := errors.Join(err, watchErr); err != nil {
		return err
	}
	lags, err := b.lags(ctx, begin, p.sent, seen)
	if err != nil {
		return err
	}
	b.results.LagP50ms, b.results.LagP99ms = milliseconds(lags.Percentile(50)), milliseconds(lags.Percentile(99))
	b.log("   p50 %.0f ms, p99 %.0f ms", b.results.LagP50ms, b.results.LagP99ms)
	return nil
}

// lags are the times from sending an event until its leaf was seen, sorted.
func (b *bench) lags(ctx context.Context, begin int64, sent map[uuid.UUID]time.Time, seen []sighting) (load.Latencies, error) {
	rows, err := b.rig.DB().Query(ctx, "SELECT leaf_index, event_id FROM audit.events WHERE leaf_index >= $1 ORDER BY leaf_index", begin)
	if err != nil {
		return nil, err
	}
	var lags load.Latencies
	var leaf int64
	var id [16]byte
	n := 0
	_, err = pgx.ForEachRow(rows, []any{&leaf, &id}, func() error {
		for n < len(seen) && seen[n].size <= leaf {
			n++
		}
		if n == len(seen) {
			return fmt.Errorf("leaf %d was never seen", leaf)
		}
		lags = append(lags, seen[n].at.Sub(sent[id]))
		return nil
	})
	slices.Sort(lags)
	return lags, err
}

// verify computes the root from an export of the last events, and from the hashes
// before them, and holds it against the checkpoint's signature.
func (b *bench) verify(ctx context.Context) error {
	size, err := b.size(ctx)
	if err != nil {
		return err
	}
	export, err := b.openExport(ctx, url.Values{"cursor": {strconv.FormatInt(max(size-50_000, 0), 10)}})
	if err != nil {
		return err
	}
	defer func() { _ = export.Close() }()
	key, err := note.NewVerifier(b.rig.LogPublicKey)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(export)
	lines.Buffer(nil, 1<<20)
	lines.Scan()
	var header auditlog.ExportHeader
	if err := json.Unmarshal(lines.Bytes(), &header); err != nil {
		return fmt.Errorf("read the export: %w", err)
	}
	head, _, err := auditlog.Open([]byte(header.Checkpoint), key)
	if err != nil {
		return err
	}
	frontier, err := auditlog.NewFrontier(header.First, header.Before)
	if err != nil {
		return err
	}
	for frontier.Size() < header.TreeSize && lines.Scan() {
		var line auditlog.ExportLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return fmt.Errorf("read the export: %w", err)
		}
		frontier.Add(auditlog.HashLeaf(line.Event))
	}
	if frontier.Root() != head.Root || frontier.Size() != head.Size {
		return fmt.Errorf("the export does not give the root that was signed")
	}
	b.results.Leaves = head.Size
	return lines.Err()
}
