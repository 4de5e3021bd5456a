package outbox

import (
	"strings"

	"github.com/jackc/pgx/v5"
)

// lifecyclePattern are the subjects whose order counts.
const lifecyclePattern = "lifecycle.%"

// statements are the SQL of one outbox, its schema put in.
type statements struct {
	listen         string
	insert         string
	claimOrdered   string
	claimUnordered string
	remove         string
	release        string
	postpone       string
	count          string
}

func newStatements(schema, channel string) statements {
	fill := strings.NewReplacer(
		"{table}", pgx.Identifier{schema, "outbox"}.Sanitize(),
		"{channel}", channel,
		"{listen}", pgx.Identifier{channel}.Sanitize(),
		"{lifecycle}", lifecyclePattern,
	).Replace
	return statements{
		listen:         fill(sqlListen),
		insert:         fill(sqlInsert),
		claimOrdered:   fill(sqlClaimOrdered),
		claimUnordered: fill(sqlClaimUnordered),
		remove:         fill(sqlRemove),
		release:        fill(sqlRelease),
		postpone:       fill(sqlPostpone),
		count:          fill(sqlCount),
	}
}

const sqlListen = "LISTEN {listen}"

const sqlInsert = `-- name: outbox_append
WITH added AS (
    INSERT INTO {table} (event_id, subject, payload)
    SELECT event_id, subject, payload
    FROM unnest($1::uuid[], $2::text[], $3::bytea[]) WITH ORDINALITY AS m (event_id, subject, payload, place)
    ORDER BY place
)
SELECT pg_notify('{channel}', '')`

// Of each lifecycle subject only the oldest row can be claimed: the next one follows once it is
// deleted, so that an older state can never be published over a newer one, by whatever replica. Which
// is the oldest is looked up for each row by itself, in the order of their places and until there are
// enough: a join of the rows with themselves compares every two of a subject that has many, and to
// find the oldest of all subjects first reads the whole backlog for each claim.
const sqlClaimOrdered = `-- name: outbox_claim_ordered
WITH next AS (
    SELECT o.event_id
    FROM {table} o
    WHERE o.subject LIKE '{lifecycle}'
      AND (o.claimed_until IS NULL OR o.claimed_until < clock_timestamp())
      AND o.position = (
          SELECT e.position FROM {table} e
          WHERE e.subject LIKE '{lifecycle}' AND e.subject = o.subject
          ORDER BY e.subject, e.position LIMIT 1)
    ORDER BY o.position
    LIMIT $1
    FOR UPDATE OF o SKIP LOCKED
)
UPDATE {table} o
SET claimed_until = clock_timestamp() + $2::interval
FROM next
WHERE o.event_id = next.event_id
RETURNING o.event_id, o.subject, o.payload, o.claimed_until`

const sqlClaimUnordered = `-- name: outbox_claim
WITH next AS (
    SELECT event_id
    FROM {table}
    WHERE subject NOT LIKE '{lifecycle}'
      AND (claimed_until IS NULL OR claimed_until < clock_timestamp())
    ORDER BY position
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
UPDATE {table} o
SET claimed_until = clock_timestamp() + $2::interval
FROM next
WHERE o.event_id = next.event_id
RETURNING o.event_id, o.subject, o.payload, o.claimed_until`

// A row that was acknowledged goes whoever holds it now: it is in the stream.
const sqlRemove = `-- name: outbox_remove
DELETE FROM {table} WHERE event_id = ANY($1::uuid[])`

// A claim that ran out may be another relay's by now, and is left alone then.
const sqlRelease = `-- name: outbox_release
UPDATE {table} o SET claimed_until = NULL
FROM unnest($1::uuid[], $2::timestamptz[]) AS m (event_id, claimed_until)
WHERE o.event_id = m.event_id AND o.claimed_until = m.claimed_until`

const sqlPostpone = `-- name: outbox_postpone
UPDATE {table} o SET claimed_until = clock_timestamp() + $3::interval
FROM unnest($1::uuid[], $2::timestamptz[]) AS m (event_id, claimed_until)
WHERE o.event_id = m.event_id AND o.claimed_until = m.claimed_until`

const sqlCount = `-- name: outbox_count
SELECT count(*), (SELECT event_id FROM {table} ORDER BY position LIMIT 1) FROM {table}`
