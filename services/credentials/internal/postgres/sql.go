package postgres

// The statements, in the order of the methods that run them. The first line of
// each names it in the query metrics.
const (
	sqlStanding = `-- name: credential_standing
SELECT a.agent_id IS NOT NULL, a.decommissioned_at IS NOT NULL,
       (SELECT count(*) FROM credentials.credentials c
         WHERE c.agent_id = $1 AND c.status = 'active' AND (c.expires_at IS NULL OR c.expires_at > $2))
  FROM (SELECT $1::uuid AS id) asked
  LEFT JOIN credentials.agents a ON a.agent_id = asked.id`

	sqlAgentInsert = `-- name: agent_insert
INSERT INTO credentials.agents (agent_id) VALUES ($1) ON CONFLICT (agent_id) DO NOTHING`

	sqlAgentLock = `-- name: agent_lock
SELECT decommissioned_at IS NOT NULL FROM credentials.agents WHERE agent_id = $1 FOR UPDATE`

	sqlActiveCount = `-- name: credential_active_count
SELECT count(*) FROM credentials.credentials
 WHERE agent_id = $1 AND status = 'active' AND (expires_at IS NULL OR expires_at > $2)`

	sqlInsert = `-- name: credential_insert
INSERT INTO credentials.credentials
       (credential_id, agent_id, status, created_at, expires_at, secret_hash, secret_fingerprint)
VALUES ($1, $2, $3, $4, $5, $6, $7)`

	sqlCount = `-- name: credential_count
SELECT count(*) FROM credentials.credentials WHERE agent_id = $1 AND ($2::text IS NULL OR status = $2)`

	sqlPage = `-- name: credential_page
SELECT ` + columns + `
  FROM credentials.credentials
 WHERE agent_id = $1 AND ($2::text IS NULL OR status = $2)
 ORDER BY created_at DESC, credential_id DESC
 LIMIT $3 OFFSET $4`

	sqlPageAfter = `-- name: credential_page_after
SELECT ` + columns + `
  FROM credentials.credentials
 WHERE agent_id = $1 AND ($2::text IS NULL OR status = $2)
   AND (created_at, credential_id) < ($4, $5)
 ORDER BY created_at DESC, credential_id DESC
 LIMIT $3`

	sqlFind = `-- name: credential_find
SELECT ` + columns + `
  FROM credentials.credentials WHERE credential_id = $1 AND agent_id = $2`

	sqlLock = `-- name: credential_lock
SELECT ` + recordColumns + `
  FROM credentials.credentials WHERE credential_id = $1 AND agent_id = $2 FOR UPDATE`

	sqlUpdate = `-- name: credential_update
UPDATE credentials.credentials
   SET status = $2, rotated_at = $3, revoked_at = $4, previous_valid_until = $5, previous_last_used_at = $6,
       secret_hash = $7, secret_fingerprint = $8, previous_hash = $9, previous_fingerprint = $10
 WHERE credential_id = $1`

	sqlAgentDecommission = `-- name: agent_decommission
UPDATE credentials.agents SET decommissioned_at = $2 WHERE agent_id = $1 AND decommissioned_at IS NULL`

	// Rows are locked in the order of their ids, here, in the next one and in sqlUse, so that
	// they never wait for each other.
	sqlLockUnexpired = `-- name: credential_lock_unexpired
SELECT ` + recordColumns + `
  FROM credentials.credentials
 WHERE agent_id = $1 AND status = 'active' AND (expires_at IS NULL OR expires_at > $2)
 ORDER BY credential_id FOR UPDATE`

	sqlLockExpired = `-- name: credential_lock_expired
SELECT ` + recordColumns + `
  FROM credentials.credentials
 WHERE credential_id IN (SELECT credential_id FROM credentials.credentials
                          WHERE agent_id = $1 AND status = 'active' AND expires_at <= $2
                          ORDER BY expires_at LIMIT $3)
   AND status = 'active'
 ORDER BY credential_id FOR UPDATE`

	sqlCandidates = `-- name: credential_candidates
SELECT ` + recordColumns + `
  FROM credentials.credentials
 WHERE agent_id = $1 AND status = 'active' AND (secret_fingerprint = $2 OR previous_fingerprint = $2)`

	// Both arms of the OR have an index. $3 is the time.
	sqlScreen = `-- name: credential_screen
SELECT EXISTS (
    SELECT FROM credentials.credentials c
     WHERE c.agent_id = q.agent_id AND c.status = 'active' AND (c.expires_at IS NULL OR c.expires_at > $3)
       AND (c.secret_fingerprint = q.fingerprint
            OR (c.previous_fingerprint = q.fingerprint AND c.previous_valid_until > $3)))
  FROM unnest($1::uuid[], $2::bytea[]) WITH ORDINALITY AS q (agent_id, fingerprint, n)
 ORDER BY n`

	// A use of the previous secret from before the last rotation was one of a
	// secret that is gone.
	sqlUse = `-- name: credential_use
WITH used AS (
    SELECT credential_id, max(used_at) AS at, max(used_at) FILTER (WHERE previous) AS previous_at
      FROM unnest($1::uuid[], $2::timestamptz[], $3::boolean[]) AS u (credential_id, used_at, previous)
     GROUP BY credential_id
), locked AS (
    SELECT c.credential_id FROM credentials.credentials c
     WHERE c.credential_id = ANY ($1::uuid[])
     ORDER BY c.credential_id FOR UPDATE
)
UPDATE credentials.credentials c
   SET last_used_at = GREATEST(c.last_used_at, used.at),
       previous_last_used_at = CASE WHEN c.previous_valid_until IS NOT NULL AND used.previous_at >= c.rotated_at
                                    THEN GREATEST(c.previous_last_used_at, used.previous_at)
                                    ELSE c.previous_last_used_at END
  FROM used JOIN locked USING (credential_id)
 WHERE c.credential_id = used.credential_id
   AND (c.last_used_at IS NULL OR c.last_used_at < used.at
        OR (used.previous_at >= c.rotated_at AND (c.previous_last_used_at IS NULL OR c.previous_last_used_at < used.previous_at)))`

	sqlDeletionInsert = `-- name: vault_deletion_insert
INSERT INTO credentials.vault_deletions (agent_id, credential_id, version, due_at) VALUES ($1, $2, $3, $4)`

	// What one replica has taken the others pass over, and take themselves once the time it took them for is over.
	// Not clock_timestamp(), for which no index can be used.
	sqlDeletionsClaim = `-- name: vault_deletions_claim
UPDATE credentials.vault_deletions d SET claimed_until = statement_timestamp() + $1::interval
  FROM (SELECT deletion_id FROM credentials.vault_deletions
         WHERE due_at <= statement_timestamp() AND (claimed_until IS NULL OR claimed_until <= statement_timestamp())
         ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED) AS taken
 WHERE d.deletion_id = taken.deletion_id
RETURNING d.deletion_id, d.agent_id, d.credential_id, d.version, d.due_at`

	sqlDeletionDone = `-- name: vault_deletion_done
DELETE FROM credentials.vault_deletions WHERE deletion_id = $1`

	sqlDeletionsCount = `-- name: vault_deletions_count
SELECT count(*) FROM credentials.vault_deletions WHERE due_at <= statement_timestamp()`

	columns = `credential_id, agent_id, status, created_at, expires_at, rotated_at, revoked_at,
       last_used_at, previous_valid_until, previous_last_used_at`
	recordColumns = columns + `, secret_hash, secret_fingerprint, previous_hash, previous_fingerprint`
)
