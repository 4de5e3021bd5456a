// Package postgres keeps credentials in the schema "credentials". Every SQL
// statement of the service is here. The package decides nothing: rules run in
// the functions that the domain passes in, under the locks taken here.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
)

// idUnique is the constraint that two credentials of one id violate.
const idUnique = "credentials_pkey"

// expiredPortion is how many expired credentials a decommission revokes in one transaction: no limit holds for their number.
const expiredPortion = 1000

// Store is the domain's store on Postgres. It is safe for concurrent use.
type Store struct {
	db     *pgdb.DB
	outbox *outbox.Outbox
}

var _ secret.Store = (*Store)(nil)

// NewStore makes a store whose events leave through the outbox.
func NewStore(db *pgdb.DB, box *outbox.Outbox) *Store { return &Store{db: db, outbox: box} }

// Standing implements secret.Store.
func (s *Store) Standing(ctx context.Context, agentID uuid.UUID, at time.Time) (secret.Standing, error) {
	var st secret.Standing
	err := s.db.QueryRow(ctx, sqlStanding, agentID, at).Scan(&st.Known, &st.Decommissioned, &st.Active)
	return st, pgdb.Fault(err)
}

// Insert implements secret.Store. The credentials are counted by a statement
// that begins after the lock was got, and so sees what the holder before left.
func (s *Store) Insert(ctx context.Context, agentID uuid.UUID, at time.Time, decide func(secret.Standing) (secret.Record, []outbox.Message, error)) error {
	err := s.db.WithTx(ctx, func(tx pgx.Tx) error {
		st := secret.Standing{Known: true}
		if err := lockAgent(ctx, tx, agentID, &st.Decommissioned); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, sqlActiveCount, agentID, at).Scan(&st.Active); err != nil {
			return err
		}
		r, msgs, err := decide(st)
		if err != nil {
			return err
		}
		hash, fingerprint := sealed(r.Current)
		_, err = tx.Exec(ctx, sqlInsert, r.ID, r.AgentID, string(r.Status), r.CreatedAt, r.ExpiresAt, hash, fingerprint)
		if err != nil {
			return err
		}
		return s.outbox.Append(ctx, tx, msgs...)
	})
	if pgdb.Constraint(err) == idUnique {
		return secret.ErrIDTaken
	}
	return pgdb.Fault(err)
}

// lockAgent until the end of the transaction, making its row if there is none.
func lockAgent(ctx context.Context, tx pgx.Tx, agentID uuid.UUID, decommissioned *bool) error {
	if _, err := tx.Exec(ctx, sqlAgentInsert, agentID); err != nil {
		return err
	}
	return tx.QueryRow(ctx, sqlAgentLock, agentID).Scan(decommissioned)
}

// List implements secret.Store.
func (s *Store) List(ctx context.Context, agentID uuid.UUID, status *secret.Status, page paging.Page) (paging.Listing[secret.Credential], error) {
	total := page.Total
	sql, args := sqlPage, []any{agentID, status, page.Limit + 1, page.Offset}
	if page.After != nil {
		sql, args = sqlPageAfter, []any{agentID, status, page.Limit + 1, page.After.Time, page.After.ID}
	} else if err := s.db.QueryRow(ctx, sqlCount, agentID, status).Scan(&total.Items); err != nil {
		return paging.Listing[secret.Credential]{}, pgdb.Fault(err)
	}
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return paging.Listing[secret.Credential]{}, pgdb.Fault(err)
	}
	credentials, err := pgx.CollectRows(rows, scanCredential)
	return paging.Cut(credentials, page.Limit, total, place), pgdb.Fault(err)
}

func place(c secret.Credential) paging.Position { return paging.Position{Time: c.CreatedAt, ID: c.ID} }

// Find implements secret.Store.
func (s *Store) Find(ctx context.Context, agentID, credentialID uuid.UUID) (secret.Credential, error) {
	rows, err := s.db.Query(ctx, sqlFind, credentialID, agentID)
	if err != nil {
		return secret.Credential{}, pgdb.Fault(err)
	}
	c, err := pgx.CollectExactlyOneRow(rows, scanCredential)
	return c, found(err)
}

// Change implements secret.Store.
func (s *Store) Change(ctx context.Context, agentID, credentialID uuid.UUID, decide func(*secret.Record) ([]outbox.Message, error)) error {
	err := s.db.WithTx(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sqlLock, credentialID, agentID)
		if err != nil {
			return err
		}
		r, err := pgx.CollectExactlyOneRow(rows, scanRecord)
		if err != nil {
			return err
		}
		msgs, err := s.changeAll(ctx, tx, []secret.Record{r}, decide)
		if err != nil {
			return err
		}
		return s.outbox.Append(ctx, tx, msgs...)
	})
	return found(err)
}

// Decommission implements secret.Store.
func (s *Store) Decommission(ctx context.Context, agentID uuid.UUID, at time.Time, decide func(*secret.Record) ([]outbox.Message, error)) error {
	end := func(locked string, args ...any) (ended int, err error) {
		err = s.db.WithTx(ctx, func(tx pgx.Tx) error {
			var already bool
			if err := lockAgent(ctx, tx, agentID, &already); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, sqlAgentDecommission, agentID, at); err != nil {
				return err
			}
			rows, err := tx.Query(ctx, locked, args...)
			if err != nil {
				return err
			}
			records, err := pgx.CollectRows(rows, scanRecord)
			if err != nil {
				return err
			}
			ended = len(records)
			msgs, err := s.changeAll(ctx, tx, records, decide)
			if err != nil || len(msgs) == 0 {
				return err
			}
			return s.outbox.Append(ctx, tx, msgs...)
		})
		return ended, pgdb.Fault(err)
	}
	_, err := end(sqlLockUnexpired, agentID, at)
	for left := 1; err == nil && left > 0; {
		left, err = end(sqlLockExpired, agentID, at, expiredPortion)
	}
	return err
}

// changeAll in one round trip.
func (s *Store) changeAll(ctx context.Context, tx pgx.Tx, records []secret.Record, decide func(*secret.Record) ([]outbox.Message, error)) ([]outbox.Message, error) {
	var all []outbox.Message
	batch := &pgx.Batch{}
	for i := range records {
		msgs, err := decide(&records[i])
		if err != nil {
			return nil, err
		}
		all = append(all, msgs...)
		batch.Queue(sqlUpdate, updateArgs(records[i])...)
		for _, d := range records[i].Unwanted {
			batch.Queue(sqlDeletionInsert, d.AgentID, d.CredentialID, d.Version, d.DueAt)
		}
	}
	return all, tx.SendBatch(ctx, batch).Close()
}

// Candidates implements secret.Store.
func (s *Store) Candidates(ctx context.Context, agentID uuid.UUID, f secret.Fingerprint) ([]secret.Record, error) {
	rows, err := s.db.Query(ctx, sqlCandidates, agentID, f[:])
	if err != nil {
		return nil, pgdb.Fault(err)
	}
	records, err := pgx.CollectRows(rows, scanRecord)
	return records, pgdb.Fault(err)
}

// Screen implements secret.Store.
func (s *Store) Screen(ctx context.Context, claims []secret.Claim, at time.Time) ([]bool, error) {
	agents := make([]uuid.UUID, len(claims))
	fingerprints := make([][]byte, len(claims))
	for i, c := range claims {
		agents[i], fingerprints[i] = c.AgentID, c.Fingerprint[:]
	}
	rows, err := s.db.Query(ctx, sqlScreen, agents, fingerprints, at)
	if err != nil {
		return nil, pgdb.Fault(err)
	}
	plausible, err := pgx.CollectRows(rows, pgx.RowTo[bool])
	return plausible, pgdb.Fault(err)
}

// RecordUses implements secret.Store.
func (s *Store) RecordUses(ctx context.Context, uses []secret.Use) error {
	ids := make([]uuid.UUID, len(uses))
	times := make([]time.Time, len(uses))
	previous := make([]bool, len(uses))
	for i, u := range uses {
		ids[i], times[i], previous[i] = u.CredentialID, u.UsedAt, u.Previous
	}
	_, err := s.db.Exec(ctx, sqlUse, ids, times, previous)
	return pgdb.Fault(err)
}

// DueDeletions implements secret.Store.
func (s *Store) DueDeletions(ctx context.Context, lease time.Duration, most int) ([]secret.Deletion, error) {
	rows, err := s.db.Query(ctx, sqlDeletionsClaim, lease, most)
	if err != nil {
		return nil, pgdb.Fault(err)
	}
	due, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (secret.Deletion, error) {
		var d secret.Deletion
		err := row.Scan(&d.ID, &d.AgentID, &d.CredentialID, &d.Version, &d.DueAt)
		d.DueAt = d.DueAt.UTC()
		return d, err
	})
	return due, pgdb.Fault(err)
}

// Deleted implements secret.Store.
func (s *Store) Deleted(ctx context.Context, id int64) error {
	_, err := s.db.Exec(ctx, sqlDeletionDone, id)
	return pgdb.Fault(err)
}

// CountDeletions implements secret.Store.
func (s *Store) CountDeletions(ctx context.Context) (n int, err error) {
	err = s.db.QueryRow(ctx, sqlDeletionsCount).Scan(&n)
	return n, pgdb.Fault(err)
}

// found makes the domain's error of a row that is not there.
func found(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return secret.NotFound()
	}
	return pgdb.Fault(err)
}

func updateArgs(r secret.Record) []any {
	hash, fingerprint := sealed(r.Current)
	previousHash, previousFingerprint := sealed(r.Previous)
	return []any{
		r.ID, string(r.Status), r.RotatedAt, r.RevokedAt, r.PreviousValidUntil, r.PreviousLastUsedAt,
		hash, fingerprint, previousHash, previousFingerprint,
	}
}

// inVault stands in the place of a hash before the number of the version that Vault has. It is no hash of bcrypt's: a
// release that knows no Vault fails at it, and does not call the secret wrong.
const inVault = "vault:"

func sealed(s *secret.Sealed) (hash, fingerprint []byte) {
	if s == nil {
		return nil, nil
	}
	if s.Version > 0 {
		return strconv.AppendInt([]byte(inVault), int64(s.Version), 10), s.Fingerprint[:]
	}
	return s.Hash, s.Fingerprint[:]
}

func scanCredential(row pgx.CollectableRow) (secret.Credential, error) {
	var c secret.Credential
	err := row.Scan(destinations(&c)...)
	inUTC(&c)
	return c, err
}

func scanRecord(row pgx.CollectableRow) (secret.Record, error) {
	var r secret.Record
	var hash, fingerprint, previousHash, previousFingerprint []byte
	err := row.Scan(append(destinations(&r.Credential), &hash, &fingerprint, &previousHash, &previousFingerprint)...)
	if err != nil {
		return secret.Record{}, err
	}
	inUTC(&r.Credential)
	if r.Current, err = unseal(hash, fingerprint); err != nil {
		return secret.Record{}, err
	}
	r.Previous, err = unseal(previousHash, previousFingerprint)
	return r, err
}

func unseal(hash, fingerprint []byte) (*secret.Sealed, error) {
	if hash == nil {
		return nil, nil
	}
	s := &secret.Sealed{Hash: hash}
	if version, ok := strings.CutPrefix(string(hash), inVault); ok {
		n, err := strconv.Atoi(version)
		if err != nil || n < 1 {
			return nil, errors.New("a version of Vault in the database that is no number")
		}
		s.Hash, s.Version = nil, n
	}
	if copy(s.Fingerprint[:], fingerprint) != len(fingerprint) || len(fingerprint) != len(s.Fingerprint) {
		return nil, fmt.Errorf("fingerprint of %d bytes in the database", len(fingerprint))
	}
	return s, nil
}

// destinations in the order of columns.
func destinations(c *secret.Credential) []any {
	return []any{
		&c.ID, &c.AgentID, &c.Status, &c.CreatedAt, &c.ExpiresAt, &c.RotatedAt, &c.RevokedAt,
		&c.LastUsedAt, &c.PreviousValidUntil, &c.PreviousLastUsedAt,
	}
}

// inUTC, because Postgres answers in the zone of the session.
func inUTC(c *secret.Credential) {
	c.CreatedAt = c.CreatedAt.UTC()
	for _, t := range []**time.Time{&c.ExpiresAt, &c.RotatedAt, &c.RevokedAt, &c.LastUsedAt, &c.PreviousValidUntil, &c.PreviousLastUsedAt} {
		if *t != nil {
			utc := (*t).UTC()
			*t = &utc
		}
	}
}
