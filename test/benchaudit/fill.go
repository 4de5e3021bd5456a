package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

const (
	day = 24 * time.Hour
	// copyRows is how many rows the machine's own rate of COPY is measured with.
	copyRows  = 200_000
	copyChunk = 1 << 20
)

// filled is what was put into the trail, and what can be asked about it.
type filled struct {
	first  time.Time // day
	events int64
	ids    []uuid.UUID // some of the events
}

// rawCopy is how many rows per second the machine takes by COPY into a table
// without an index.
func (b *bench) rawCopy(ctx context.Context) error {
	g := newGenerator(b.seed, 1<<32)
	var rows bytes.Buffer
	for i := range int64(copyRows) {
		rows.Write(g.make(time.Now()).appendRow(nil, i))
	}
	conn, err := b.rig.DB().Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, `CREATE TABLE raw_copy (event_id uuid, timestamp timestamptz, leaf_index bigint, agent_id uuid, actor_id uuid,
		action text, outcome text, service text, payload json)`); err != nil {
		return err
	}
	begin := time.Now()
	if _, err := conn.Conn().PgConn().CopyFrom(ctx, &rows, "COPY raw_copy "+columns+" FROM STDIN"); err != nil {
		return err
	}
	b.results.CopyPerSecond = copyRows / time.Since(begin).Seconds()
	_, err = conn.Exec(ctx, "DROP TABLE raw_copy")
	return err
}

// fill puts events of the last days into the trail, as valid as if the service had
// sequenced them: partitions, leaves, tiles, and the signed head. The service must
// not run.
func (b *bench) fill(ctx context.Context) error {
	// The first day is the first that is whole inside of the retention window.
	f := filled{first: time.Now().UTC().Truncate(day).Add(-time.Duration(b.days-1) * day), events: int64(b.events/b.days) * int64(b.days)}
	perDay := int64(b.events / b.days)
	if err := b.keepNoWAL(ctx, true); err != nil {
		return err
	}
	tree, err := b.tree(ctx)
	if err != nil {
		return err
	}
	base := tree.Size() // what the service has logged of its own beginning
	begin := time.Now()
	hashes := make(chan []tlog.Hash, b.days)
	group, filling := errgroup.WithContext(ctx)
	group.Go(func() error { return b.grow(filling, tree, hashes) })
	// One day after the other: who makes a partition holds the right to make the next.
	group.Go(func() error {
		for n := range b.days {
			made, some, err := b.fillDay(filling, f.first.Add(time.Duration(n)*day), base+int64(n)*perDay, perDay)
			if err != nil {
				return err
			}
			hashes <- made
			f.ids = append(f.ids, some...)
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return fmt.Errorf("fill the trail: %w", err)
	}
	if _, err := b.rig.DB().Exec(ctx, "ANALYZE audit.events, audit.day_counts"); err != nil {
		return err
	}
	// What was there before is not what the bench is about.
	if _, err := b.rig.DB().Exec(ctx, "UPDATE audit.cursors SET next_leaf = size FROM audit.tree"); err != nil {
		return err
	}
	b.filled = f
	b.results.FillPerSecond = float64(f.events) / time.Since(begin).Seconds()
	return b.keepNoWAL(ctx, false)
}

// keepNoWAL has Postgres write no log of tables that are made and filled in one
// transaction, or again as always: what is measured is not to profit from it.
func (b *bench) keepNoWAL(ctx context.Context, on bool) error {
	statements := []string{"ALTER SYSTEM RESET wal_level", "ALTER SYSTEM RESET max_wal_senders"}
	if on {
		statements = []string{"ALTER SYSTEM SET wal_level = minimal", "ALTER SYSTEM SET max_wal_senders = 0"}
	}
	for _, statement := range append(statements, "CHECKPOINT") {
		if _, err := b.rig.DB().Exec(ctx, statement); err != nil {
			return err
		}
	}
	if err := b.rig.Kill("postgres"); err != nil {
		return err
	}
	if err := b.rig.Revive(ctx, "postgres"); err != nil {
		return err
	}
	b.rig.DB().Reset()
	return nil
}

// fillDay copies one day. Its partition is made in the same transaction, so that
// Postgres can mark its rows as visible to all at once.
func (b *bench) fillDay(ctx context.Context, at time.Time, base, events int64) (hashes []tlog.Hash, ids []uuid.UUID, err error) {
	g := newGenerator(b.seed, uint64(at.Unix())) //nolint:gosec // after 1970
	length := min(day, time.Since(at))           // nothing has happened yet in the rest of today
	hashes = make([]tlog.Hash, 0, events)
	rows := &rowReader{next: func(dst []byte, n int64) []byte {
		e := g.make(at.Add(time.Duration(n) * (length / time.Duration(events))))
		hashes = append(hashes, auditlog.HashLeaf(e.payload))
		if n%1000 == 0 {
			ids = append(ids, e.id)
		}
		return e.appendRow(dst, base+n)
	}, rows: events}
	err = pgx.BeginFunc(ctx, b.rig.DB(), func(tx pgx.Tx) error {
		var fresh bool
		if err := tx.QueryRow(ctx, "SELECT audit.ensure_partition($1::date)", at).Scan(&fresh); err != nil {
			return err
		}
		options := ""
		if fresh {
			options = " (FREEZE)"
		}
		table := pgx.Identifier{"audit", "events_" + at.Format("y2006m01d02")}.Sanitize()
		if _, err := tx.Conn().PgConn().CopyFrom(ctx, rows, "COPY "+table+" "+columns+" FROM STDIN"+options); err != nil {
			return err
		}
		// The trigger that counts is not that of the partition; what it has counted of the
		// service's own beginning is counted anew.
		if _, err := tx.Exec(ctx, "DELETE FROM audit.day_counts WHERE day = $1", at); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "SELECT audit.count_day($1)", at)
		return err
	})
	b.log("   %s", at.Format(time.DateOnly))
	return hashes, ids, err
}

// rowReader reads rows as they are made.
type rowReader struct {
	next   func(dst []byte, n int64) []byte
	rows   int64
	n      int64
	buffer []byte
	rest   []byte
}

func (r *rowReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		r.buffer = r.buffer[:0]
		for r.n < r.rows && len(r.buffer) < copyChunk {
			r.buffer = r.next(r.buffer, r.n)
			r.n++
		}
		r.rest = r.buffer
	}
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// grow adds the leaves of one day after the other to the tree, and signs its head.
func (b *bench) grow(ctx context.Context, tree *auditlog.Frontier, days <-chan []tlog.Hash) error {
	for range b.days {
		var leaves []tlog.Hash
		select {
		case leaves = <-days:
		case <-ctx.Done():
			return ctx.Err()
		}
		parts := tree.Extend(leaves)
		levels, indexes, data := make([]int16, len(parts)), make([]int64, len(parts)), make([][]byte, len(parts))
		for i, part := range parts {
			levels[i], indexes[i], data[i] = int16(part.Level), part.Index, part.Data //nolint:gosec // 0 to 7
		}
		if _, err := b.rig.DB().Exec(ctx, `INSERT INTO audit.tiles AS t (level, index, data)
			SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bytea[])
			ON CONFLICT (level, index) DO UPDATE SET data = t.data || excluded.data`, levels, indexes, data); err != nil {
			return err
		}
	}
	signer, err := b.rig.LogSigner()
	if err != nil {
		return err
	}
	head := auditlog.Checkpoint{Origin: signer.Name(), Size: tree.Size(), Root: tree.Root()}
	signed, err := auditlog.Sign(head, signer)
	if err != nil {
		return err
	}
	var frontier []byte
	for _, hash := range tree.Hashes() {
		frontier = append(frontier, hash[:]...)
	}
	_, err = b.rig.DB().Exec(ctx, "UPDATE audit.tree SET size = $1, frontier = $2, root = $3, checkpoint = $4, public_key = $5",
		head.Size, frontier, head.Root[:], string(signed), b.rig.LogPublicKey)
	return err
}

// tree is the tree as it is.
func (b *bench) tree(ctx context.Context) (*auditlog.Frontier, error) {
	var size int64
	var data []byte
	if err := b.rig.DB().QueryRow(ctx, "SELECT size, frontier FROM audit.tree").Scan(&size, &data); err != nil {
		return nil, err
	}
	hashes, err := auditlog.TileHashes(data)
	if err != nil {
		return nil, err
	}
	return auditlog.NewFrontier(size, hashes)
}
