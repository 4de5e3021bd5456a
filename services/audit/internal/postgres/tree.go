package postgres

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/timeid"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

const (
	// A holder of the row that was killed is gone with its connection. One that was
	// frozen keeps the connection, and Postgres ends its transaction after this. Plans
	// are made for each batch, by the size that today's partition has: one that was made
	// for all batches while the day was young would read the whole day for each of them,
	// until the server analyzes the partition the next time.
	sqlLease = `-- name: tree_lease
SELECT set_config('idle_in_transaction_session_timeout', '3s', true), set_config('plan_cache_mode', 'force_custom_plan', true)`

	sqlTake = `-- name: tree_take
SELECT size, frontier, public_key FROM audit.tree FOR UPDATE`

	// The hash of a known event is read from the tree, which says what was stored,
	// whatever the row says now. Each id is looked for by itself (OFFSET 0 keeps the
	// planner to that): for all at once it would read the whole day of which it was
	// told nothing yet.
	sqlKnown = `-- name: event_known
SELECT e.event_id, coalesce((
  SELECT substring(data FROM (e.leaf_index % 256)::int * 32 + 1 FOR 32) FROM audit.tiles WHERE level = 0 AND index = e.leaf_index / 256), '')
FROM unnest($3::uuid[]) AS wanted (id) CROSS JOIN LATERAL (
  SELECT event_id, leaf_index FROM audit.events
  WHERE event_id = wanted.id AND timestamp >= $1 AND timestamp < $2 OFFSET 0) AS e`
)

// take makes this transaction the sequencer, decides which entries are duplicates,
// and returns those that are new, and the tree to add them to. A batch without any
// event takes nothing.
func (s *Sequencer) take(ctx context.Context, tx pgx.Tx, entries []*entry) ([]*entry, *auditlog.Frontier, error) {
	searches := searchesOf(entries)
	if len(searches) == 0 {
		return nil, nil, nil
	}
	var (
		batch    = &pgx.Batch{}
		tree     *auditlog.Frontier
		recorded = map[uuid.UUID][]byte{}
	)
	batch.Queue(sqlLease)
	batch.Queue(sqlTake).QueryRow(func(row pgx.Row) (err error) {
		tree, err = s.head(row)
		return err
	})
	for span, ids := range searches {
		batch.Queue(sqlKnown, span.from, span.to, ids).Query(func(rows pgx.Rows) error {
			var id uuid.UUID
			var hash []byte
			_, err := pgx.ForEachRow(rows, []any{&id, &hash}, func() error {
				recorded[id] = hash
				return nil
			})
			return err
		})
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, nil, err
	}
	return sortOut(entries, recorded), tree, nil
}

// span is the time from one moment to before another.
type span struct{ from, to time.Time }

// searchesOf says in which days an event under the id of each entry would be: the
// three around the time in the id, or all where it has none. As a rule the ids of
// a batch are of one day.
func searchesOf(entries []*entry) map[span][]uuid.UUID {
	searches := map[span][]uuid.UUID{}
	for _, e := range entries {
		if e.Reject != "" {
			continue
		}
		where := span{to: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}
		if at, has := timeid.Of(e.Event.ID); has {
			first, last := trail.Day(at).Add(-trail.MaxIDDrift), trail.Day(at).Add(trail.MaxIDDrift)
			where = span{from: first, to: last.AddDate(0, 0, 1)}
		}
		searches[where] = append(searches[where], e.Event.ID)
	}
	return searches
}

// sortOut gives the duplicates their verdict and returns the new events, each once.
// An event is the same if its leaf is: another event under an id that is taken is
// none.
func sortOut(entries []*entry, recorded map[uuid.UUID][]byte) []*entry {
	var fresh []*entry
	for _, e := range entries {
		if e.Reject != "" {
			continue
		}
		before, is := recorded[e.Event.ID]
		switch {
		case !is:
			recorded[e.Event.ID] = e.LeafHash[:]
			fresh = append(fresh, e)
		case bytes.Equal(before, e.LeafHash[:]):
			e.verdict = trail.Duplicate
		default:
			e.Reject = "its eventId is that of another event"
		}
	}
	return fresh
}

// head reads the tree that is taken.
func (s *Sequencer) head(row pgx.Row) (*auditlog.Frontier, error) {
	var size int64
	var frontier []byte
	var key string
	if err := row.Scan(&size, &frontier, &key); err != nil {
		return nil, fmt.Errorf("take the tree: %w", err)
	}
	if key != "" && key != s.PublicKey {
		return nil, fmt.Errorf("%w: its public key is %s", trail.ErrOtherKey, key)
	}
	hashes, err := auditlog.TileHashes(frontier)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", trail.ErrTorn, err)
	}
	tree, err := auditlog.NewFrontier(size, hashes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", trail.ErrTorn, err)
	}
	return tree, nil
}

const (
	sqlTiles = `-- name: tiles_grow
INSERT INTO audit.tiles AS t (level, index, data)
SELECT level, index, data FROM unnest($1::smallint[], $2::bigint[], $3::bytea[]) AS p(level, index, data)
ON CONFLICT (level, index) DO UPDATE SET data = t.data || excluded.data
RETURNING level, index, length(data)`

	sqlGrow = `-- name: tree_grow
UPDATE audit.tree SET size = $1, frontier = $2, root = $3, checkpoint = $4, public_key = $5, updated_at = now()`
)

// grow queues what the new leaves change: the tiles, and the head with its
// signature.
func (s *Sequencer) grow(batch *pgx.Batch, tree *auditlog.Frontier, leaves []tlog.Hash) error {
	if len(leaves) == 0 {
		return nil
	}
	parts := tree.Extend(leaves)
	levels, indexes, data := make([]int16, len(parts)), make([]int64, len(parts)), make([][]byte, len(parts))
	for i, part := range parts {
		levels[i], indexes[i], data[i] = int16(part.Level), part.Index, part.Data //nolint:gosec // levels are 0 to 7
	}
	head := auditlog.Checkpoint{Origin: s.Signer.Name(), Size: tree.Size(), Root: tree.Root()}
	signed, err := auditlog.Sign(head, s.Signer)
	if err != nil {
		return fmt.Errorf("sign the checkpoint: %w", err)
	}
	var frontier []byte
	for _, hash := range tree.Hashes() {
		frontier = append(frontier, hash[:]...)
	}
	// The head goes first: the database takes no tile that is ahead of it.
	batch.Queue(sqlGrow, head.Size, frontier, head.Root[:], string(signed), s.PublicKey)
	batch.Queue(sqlTiles, levels, indexes, data).Query(func(rows pgx.Rows) error { return fitting(rows, head.Size) })
	return nil
}

// fitting tells whether tiles are as long as a tree of this size makes them. They
// are not where somebody brought tiles and head back from different backups; to go
// on would make a log that proves nothing.
func fitting(rows pgx.Rows, size int64) error {
	var level int16
	var index, length int64
	_, err := pgx.ForEachRow(rows, []any{&level, &index, &length}, func() error {
		hashes := min(auditlog.TileWidth, size>>(auditlog.TileHeight*level)-index*auditlog.TileWidth)
		if length != hashes*tlog.HashSize {
			return fmt.Errorf("%w: tile %d/%d", trail.ErrTorn, level, index)
		}
		return nil
	})
	return err
}
