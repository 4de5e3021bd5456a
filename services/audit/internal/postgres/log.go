package postgres

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/timeid"
	"github.com/sentryagent/agentidp/services/audit/internal/merkle"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// Log reads what Sequencers write. It is safe for concurrent use.
type Log struct {
	db *pgdb.DB
}

var _ merkle.Store = (*Log)(nil)

// NewLog returns a Log on db, which connects as a role that may read.
func NewLog(db *pgdb.DB) *Log { return &Log{db: db} }

const sqlTreeHead = `-- name: tree_get
SELECT size, root, checkpoint FROM audit.tree`

// Head is the newest head of the log.
func (l *Log) Head(ctx context.Context) (merkle.Head, error) {
	var head merkle.Head
	var root []byte
	var signed string
	if err := l.db.QueryRow(ctx, sqlTreeHead).Scan(&head.Size, &root, &signed); err != nil {
		return merkle.Head{}, pgdb.Fault(err)
	}
	copy(head.Root[:], root)
	head.Signed = []byte(signed)
	return head, nil
}

const sqlTilesAt = `-- name: tiles_get
SELECT level, index, data FROM audit.tiles
JOIN unnest($1::smallint[], $2::bigint[]) AS wanted(level, index) USING (level, index)`

// Tiles returns the hashes in tiles, in the order asked for.
func (l *Log) Tiles(ctx context.Context, tiles []tlog.Tile) ([][]byte, error) {
	levels, indexes := make([]int16, len(tiles)), make([]int64, len(tiles))
	for i, tile := range tiles {
		levels[i], indexes[i] = int16(tile.L), tile.N //nolint:gosec // levels are 0 to 7
	}
	rows, err := l.db.Query(ctx, sqlTilesAt, levels, indexes)
	if err != nil {
		return nil, pgdb.Fault(err)
	}
	found := make([][]byte, len(tiles))
	var level int16
	var index int64
	var data []byte
	_, err = pgx.ForEachRow(rows, []any{&level, &index, &data}, func() error {
		for i := range tiles {
			if levels[i] == level && indexes[i] == index {
				found[i] = data
			}
		}
		return nil
	})
	return found, pgdb.Fault(err)
}

const (
	sqlLeaf = `-- name: leaf_get
SELECT leaf_index, timestamp, payload::text FROM audit.events WHERE event_id = $1 AND timestamp >= $2 AND timestamp <= $3`

	sqlLeafAnywhere = `-- name: leaf_get_anywhere
SELECT leaf_index, timestamp, payload::text FROM audit.events WHERE event_id = $1`
)

// LeafOf returns the leaf of an event, or trail.ErrNotFound. The time in the id
// (RFC 9562 section 5.7) says in which days it is.
func (l *Log) LeafOf(ctx context.Context, eventID uuid.UUID) (merkle.Leaf, error) {
	if at, has := timeid.Of(eventID); has {
		return l.leaf(ctx, sqlLeaf, eventID, at.Add(-trail.MaxIDDrift), at.Add(trail.MaxIDDrift))
	}
	return l.leaf(ctx, sqlLeafAnywhere, eventID)
}

func (l *Log) leaf(ctx context.Context, sql string, args ...any) (merkle.Leaf, error) {
	var leaf merkle.Leaf
	switch err := l.db.QueryRow(ctx, sql, args...).Scan(&leaf.Index, &leaf.Timestamp, &leaf.Payload); {
	case errors.Is(err, pgx.ErrNoRows):
		return merkle.Leaf{}, trail.ErrNotFound
	case err != nil:
		return merkle.Leaf{}, pgdb.Fault(err)
	}
	return leaf, nil
}

const sqlLeaves = `-- name: leaves_list
SELECT leaf_index, timestamp, payload::text FROM audit.events
WHERE leaf_index >= $1 AND leaf_index < $2 ORDER BY leaf_index`

// Leaves returns the events that are stored as the leaves from first on, at most n.
func (l *Log) Leaves(ctx context.Context, first int64, n int) ([]merkle.Leaf, error) {
	rows, err := l.db.Query(ctx, sqlLeaves, first, first+int64(n))
	if err != nil {
		return nil, pgdb.Fault(err)
	}
	leaves, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (merkle.Leaf, error) {
		var leaf merkle.Leaf
		err := row.Scan(&leaf.Index, &leaf.Timestamp, &leaf.Payload)
		return leaf, err
	})
	return leaves, pgdb.Fault(err)
}
