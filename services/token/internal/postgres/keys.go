package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/token/internal/keys"
)

// keysLock is the advisory lock under which signing keys change.
const keysLock = "token.signing_keys"

const (
	sqlKeysLock = "-- name: signing_keys_lock\n" + `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`

	// Not now(), which is when the transaction began: before it waited for the lock.
	sqlKeysClock = "-- name: signing_keys_clock\n" + `SELECT clock_timestamp()`

	sqlKeysList = "-- name: signing_keys_list\n" + `
SELECT kid, algorithm, state, sealed_key, token_ttl_seconds, created_at, activated_at, retired_at, gone_at
FROM token.signing_keys
UNION ALL
SELECT kid, algorithm, 'gone', '', 0, created_at, activated_at, retired_at, gone_at
FROM token.gone_keys`

	sqlKeyDelete = "-- name: signing_key_delete\n" + `DELETE FROM token.signing_keys WHERE kid = ANY ($1)`

	sqlKeyBury = "-- name: signing_key_bury\n" + `
INSERT INTO token.gone_keys (kid, algorithm, created_at, activated_at, retired_at, gone_at)
SELECT kid, algorithm, created_at, activated_at, CASE WHEN state = 'active' THEN $2 ELSE retired_at END, $2
FROM token.signing_keys WHERE kid = ANY ($1)`

	sqlKeyRetire = "-- name: signing_key_retire\n" + `
UPDATE token.signing_keys SET state = 'retired', retired_at = $2, gone_at = $3 WHERE kid = $1`

	sqlKeyActivate = "-- name: signing_key_activate\n" + `
UPDATE token.signing_keys SET state = 'active', activated_at = $2 WHERE kid = $1`

	sqlKeyRaiseTTL = "-- name: signing_key_raise_ttl\n" + `
UPDATE token.signing_keys SET token_ttl_seconds = GREATEST(token_ttl_seconds, $2) WHERE kid = ANY ($1)`

	sqlKeyInsert = "-- name: signing_key_insert\n" + `
INSERT INTO token.signing_keys (kid, algorithm, state, sealed_key, token_ttl_seconds, created_at, activated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)`
)

// Keys is the store of the signing keys.
type Keys struct {
	db    *pgdb.DB
	clock func() time.Time // nil for the database's
}

var _ keys.Store = (*Keys)(nil)

// NewKeys makes the store. The keys change by the clock of the database, so that it
// does not matter whose clock is wrong: a nil clock. A test may have another one.
func NewKeys(db *pgdb.DB, clock func() time.Time) *Keys { return &Keys{db: db, clock: clock} }

// Keys answers all keys, those that are gone included.
func (s *Keys) Keys(ctx context.Context) ([]keys.Record, error) {
	records, err := listKeys(ctx, s.db)
	return records, pgdb.Fault(err)
}

// Change reads all keys and the time under the lock, asks decide, and does what it says.
func (s *Keys) Change(ctx context.Context, decide func([]keys.Record, time.Time) keys.Change) error {
	return pgdb.Fault(s.db.WithTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sqlKeysLock, keysLock); err != nil {
			return err
		}
		records, err := listKeys(ctx, tx)
		if err != nil {
			return err
		}
		now, err := s.now(ctx, tx)
		if err != nil {
			return err
		}
		return applyChange(ctx, tx, decide(records, now))
	}))
}

func (s *Keys) now(ctx context.Context, tx pgx.Tx) (now time.Time, err error) {
	if s.clock != nil {
		return s.clock(), nil
	}
	return now, tx.QueryRow(ctx, sqlKeysClock).Scan(&now)
}

func applyChange(ctx context.Context, tx pgx.Tx, change keys.Change) error {
	var batch pgx.Batch
	if len(change.Withdraw) > 0 {
		batch.Queue(sqlKeyDelete, change.Withdraw)
	}
	if len(change.Bury) > 0 {
		batch.Queue(sqlKeyBury, change.Bury, change.At)
		batch.Queue(sqlKeyDelete, change.Bury)
	}
	if change.Retire != "" {
		batch.Queue(sqlKeyRetire, change.Retire, change.At, change.GoneAt)
	}
	if change.Activate != "" {
		batch.Queue(sqlKeyActivate, change.Activate, change.At)
	}
	if len(change.RaiseTTL) > 0 {
		batch.Queue(sqlKeyRaiseTTL, change.RaiseTTL, seconds(change.TTL))
	}
	if record := change.Insert; record != nil {
		batch.Queue(sqlKeyInsert, record.ID, string(record.Algorithm), string(record.State), record.Sealed,
			seconds(record.TokenTTL), record.CreatedAt, record.ActivatedAt)
	}
	if batch.Len() == 0 {
		return nil
	}
	return tx.SendBatch(ctx, &batch).Close()
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

func listKeys(ctx context.Context, db pgdb.Querier) ([]keys.Record, error) {
	rows, err := db.Query(ctx, sqlKeysList)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (keys.Record, error) {
		var record keys.Record
		var ttl int64
		err := row.Scan(&record.ID, &record.Algorithm, &record.State, &record.Sealed, &ttl,
			&record.CreatedAt, &record.ActivatedAt, &record.RetiredAt, &record.GoneAt)
		record.TokenTTL = time.Duration(ttl) * time.Second
		return record, err
	})
}
