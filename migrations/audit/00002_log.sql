-- The trail becomes a transparency log: every event is a leaf of one Merkle tree
-- (RFC 6962 section 2.1), and what is stored is partitioned by day, so that
-- retention drops whole days and never a row.

-- +goose Up

-- Events of before wait under another name for `audit migrate`, which gives them
-- their leaves and drops the table. An empty table is dropped here.
-- +goose StatementBegin
DO $$
BEGIN
    LOCK TABLE audit.events IN ACCESS EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT FROM audit.events) THEN
        DROP TABLE audit.events;
        RETURN;
    END IF;
    ALTER TABLE audit.events RENAME TO events_unsequenced;
    ALTER TABLE audit.events_unsequenced RENAME CONSTRAINT events_pkey TO events_unsequenced_pkey;
    DROP INDEX audit.events_newest, audit.events_agent, audit.events_actor, audit.events_action, audit.events_outcome;
    CREATE INDEX events_unsequenced_arrival ON audit.events_unsequenced (recorded_at, event_id);
    REVOKE ALL ON audit.events_unsequenced FROM audit_app;
END
$$;
-- +goose StatementEnd

CREATE TABLE audit.events (
    event_id    uuid        NOT NULL,
    timestamp   timestamptz NOT NULL,
    -- The event's place in the log, from 0. audit.tree gives each out once.
    leaf_index  bigint      NOT NULL CHECK (leaf_index >= 0),
    agent_id    uuid,
    actor_id    uuid,
    action      text        NOT NULL,
    outcome     text        NOT NULL CHECK (outcome IN ('success', 'failure')),
    service     text        NOT NULL,
    -- The event exactly as its publisher wrote it, fields this version does not
    -- know included. json and not jsonb: jsonb refuses the escape \u0000, and
    -- rewrites numbers and the order of keys.
    payload     json        NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (event_id, timestamp)
) PARTITION BY RANGE (timestamp);

-- Every combination of an agent, an action and a span of time is a range of one
-- index in the order of the list, so that a page is never a sort; what else a filter
-- asks for is read off the same index, without the rows. Failures have indexes of
-- their own, which cost only the events that failed, and what one agent did to
-- another is a range: so lists that few events match, or none, read a short range as
-- well. A list by outcome alone finds failures in their index, and successes among
-- the newest events. The last index is for reading in leaf order.
CREATE INDEX events_newest        ON audit.events (timestamp DESC, event_id DESC, outcome);
CREATE INDEX events_agent         ON audit.events (agent_id, timestamp DESC, event_id DESC, outcome);
CREATE INDEX events_agent_action  ON audit.events (agent_id, action, timestamp DESC, event_id DESC, outcome);
CREATE INDEX events_actor         ON audit.events (actor_id, timestamp DESC, event_id DESC, action, outcome);
CREATE INDEX events_actor_agent   ON audit.events (actor_id, agent_id, timestamp DESC, event_id DESC, action, outcome);
CREATE INDEX events_action        ON audit.events (action, timestamp DESC, event_id DESC, outcome);
CREATE INDEX events_failed        ON audit.events (timestamp DESC, event_id DESC) WHERE outcome = 'failure';
CREATE INDEX events_failed_action ON audit.events (action, timestamp DESC, event_id DESC) WHERE outcome = 'failure';
CREATE INDEX events_failed_agent  ON audit.events (agent_id, timestamp DESC, event_id DESC, action) WHERE outcome = 'failure';
CREATE INDEX events_failed_actor  ON audit.events (actor_id, timestamp DESC, event_id DESC, agent_id, action) WHERE outcome = 'failure';
CREATE INDEX events_leaf          ON audit.events (leaf_index);

CREATE TRIGGER events_immutable
    BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.events
    FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change();
ALTER TABLE audit.events ENABLE ALWAYS TRIGGER events_immutable;

-- The days that retention has removed, and which leaves they held: first_leaf to
-- last_leaf, among which leaves of other days may lie; both null for a day
-- without events.
CREATE TABLE audit.dropped_partitions (
    day        date        PRIMARY KEY,
    events     bigint      NOT NULL CHECK (events >= 0),
    first_leaf bigint,
    last_leaf  bigint,
    dropped_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER dropped_partitions_immutable
    BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.dropped_partitions
    FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change();
ALTER TABLE audit.dropped_partitions ENABLE ALWAYS TRIGGER dropped_partitions_immutable;

-- The head of the log, one row. Who stores events locks it first, so there is one
-- sequencer at a time, whichever replica it runs in.
CREATE TABLE audit.tree (
    one        boolean     PRIMARY KEY DEFAULT true CHECK (one),
    size       bigint      NOT NULL DEFAULT 0 CHECK (size >= 0),
    -- The roots of the full subtrees the tree is made of, 32 bytes each, largest
    -- first: all that is needed to add leaves.
    frontier   bytea       NOT NULL DEFAULT '' CHECK (length(frontier) % 32 = 0),
    root       bytea       NOT NULL DEFAULT sha256('') CHECK (length(root) = 32),
    -- The signed checkpoint of this size and root; empty before the first leaf.
    checkpoint text        NOT NULL DEFAULT '',
    -- The public key that checks it. Only the owner replaces one that is set.
    public_key text        NOT NULL DEFAULT '',
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 10);
INSERT INTO audit.tree DEFAULT VALUES;

-- The hashes of the tree, as C2SP tlog-tiles cuts them: tile (level, index) holds
-- up to 256 hashes of 32 bytes, those of the subtrees of 256^level leaves. The
-- last tile of each level grows; a partial tile is the beginning of the full one.
CREATE TABLE audit.tiles (
    level smallint NOT NULL CHECK (level BETWEEN 0 AND 7),
    index bigint   NOT NULL CHECK (index >= 0),
    data  bytea    NOT NULL CHECK (length(data) BETWEEN 32 AND 8192 AND length(data) % 32 = 0),
    PRIMARY KEY (level, index)
);
ALTER TABLE audit.tiles ALTER COLUMN data SET STORAGE EXTERNAL; -- hashes do not compress

-- What the service's role may do to the head and the tiles of the log is bounded
-- by what storing a batch needs: a step of the head that is too long, or that comes
-- without its tiles, and a tile ahead of the head would have no sequencer go on.
-- The schema's owner, and whoever is a member of it, is held to growing only.
-- +goose StatementBegin
CREATE FUNCTION audit.refuse_rewrite() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = ''
AS $$
DECLARE
    owner boolean := pg_has_role(current_user, (SELECT relowner FROM pg_catalog.pg_class WHERE oid = TG_RELID), 'MEMBER');
    leaves bigint;
BEGIN
    IF TG_OP = 'UPDATE' AND TG_TABLE_NAME = 'tree' THEN
        IF (owner OR OLD.public_key = '' OR NEW.public_key = OLD.public_key)
            AND (NEW.size > OLD.size AND (owner OR NEW.size - OLD.size <= 10000)
                OR NEW.size = OLD.size AND NEW.root = OLD.root AND NEW.frontier = OLD.frontier) THEN
            RETURN NEW;
        END IF;
    ELSIF TG_OP IN ('INSERT', 'UPDATE') AND TG_TABLE_NAME = 'tiles' THEN
        SELECT size INTO leaves FROM audit.tree;
        IF (TG_OP = 'INSERT' OR NEW.level = OLD.level AND NEW.index = OLD.index
                AND substring(NEW.data FROM 1 FOR length(OLD.data)) = OLD.data)
            AND (owner OR length(NEW.data) <= 32 * ((leaves >> (8 * NEW.level)) - 256 * NEW.index::numeric)) THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the audit log only grows, its tiles up to its head: % on %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;
-- +goose StatementEnd

-- Looked at when the transaction ends, as the head goes first and its tiles follow.
-- +goose StatementBegin
CREATE FUNCTION audit.require_tiles() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = ''
AS $$
DECLARE
    head   audit.tree;
    before bigint; -- hashes in the level
    after  bigint;
    bytes  bigint;
BEGIN
    IF pg_has_role(current_user, (SELECT relowner FROM pg_catalog.pg_class WHERE oid = TG_RELID), 'MEMBER') THEN
        RETURN NULL;
    END IF;
    SELECT * INTO head FROM audit.tree;
    IF length(head.frontier) <> 32 * bit_count(head.size::bit(64)) THEN
        RAISE EXCEPTION 'the frontier of the audit log is not that of % leaves', head.size USING ERRCODE = 'insufficient_privilege';
    END IF;
    FOR wanted IN 0..7 LOOP
        before := OLD.size >> (8 * wanted);
        after := head.size >> (8 * wanted);
        CONTINUE WHEN after = before;
        SELECT coalesce(sum(length(data)), 0) INTO bytes FROM audit.tiles
        WHERE level = wanted AND index BETWEEN before / 256 AND after / 256;
        IF bytes <> 32 * (after - before / 256 * 256) THEN
            RAISE EXCEPTION 'the audit log has no tiles of level % for % leaves', wanted, head.size
                USING ERRCODE = 'insufficient_privilege';
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER tree_grows BEFORE UPDATE ON audit.tree FOR EACH ROW EXECUTE FUNCTION audit.refuse_rewrite();
CREATE TRIGGER tree_stays BEFORE DELETE OR TRUNCATE ON audit.tree FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_rewrite();
CREATE TRIGGER tiles_grow BEFORE INSERT OR UPDATE ON audit.tiles FOR EACH ROW EXECUTE FUNCTION audit.refuse_rewrite();
CREATE TRIGGER tiles_stay BEFORE DELETE OR TRUNCATE ON audit.tiles FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_rewrite();
ALTER TABLE audit.tree ENABLE ALWAYS TRIGGER tree_grows;
ALTER TABLE audit.tree ENABLE ALWAYS TRIGGER tree_stays;
ALTER TABLE audit.tiles ENABLE ALWAYS TRIGGER tiles_grow;
ALTER TABLE audit.tiles ENABLE ALWAYS TRIGGER tiles_stay;
CREATE CONSTRAINT TRIGGER tree_has_tiles AFTER UPDATE ON audit.tree DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.size <> OLD.size) EXECUTE FUNCTION audit.require_tiles();
ALTER TABLE audit.tree ENABLE ALWAYS TRIGGER tree_has_tiles;

-- ensure_partition makes the partition of a day (UTC) unless it is there, and
-- tells whether it made one. It runs as the owner, so the service can have the
-- day of an event made, whichever that is, and nothing else. A day of before
-- 2000, one more than a month ahead, and one that retention has removed are
-- refused as values that cannot be stored (class 22).
--
-- The partition is attached and not created in place: to attach one lets readers
-- and writers of the other days go on.
-- +goose StatementBegin
CREATE FUNCTION audit.ensure_partition(wanted date) RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = ''
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
DECLARE
    partition text := 'events_y' || to_char(wanted, 'YYYY"m"MM"d"DD');
BEGIN
    -- Asked of the catalogue's rows: to_regclass would answer from a cache.
    IF EXISTS (SELECT FROM pg_catalog.pg_class WHERE relname = partition AND relnamespace = 'audit'::regnamespace) THEN
        RETURN false;
    END IF;
    IF wanted IS NULL OR wanted < '2000-01-01' OR wanted > current_date + 31 THEN
        RAISE EXCEPTION 'no partition for the day %', wanted USING ERRCODE = 'datetime_field_overflow';
    END IF;
    -- One at a time; who comes second finds the partition there.
    PERFORM pg_advisory_xact_lock(hashtextextended('audit.ensure_partition', 0));
    IF EXISTS (SELECT FROM pg_catalog.pg_class WHERE relname = partition AND relnamespace = 'audit'::regnamespace) THEN
        RETURN false;
    END IF;
    IF EXISTS (SELECT FROM audit.dropped_partitions WHERE day = wanted) THEN
        RAISE EXCEPTION 'retention has removed the day %', wanted USING ERRCODE = 'datetime_field_overflow';
    END IF;
    EXECUTE format('CREATE TABLE audit.%I (LIKE audit.events INCLUDING ALL)', partition);
    EXECUTE format('CREATE TRIGGER events_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.%I '
        'FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change()', partition);
    EXECUTE format('ALTER TABLE audit.%I ENABLE ALWAYS TRIGGER events_immutable', partition);
    EXECUTE format('ALTER TABLE audit.events ATTACH PARTITION audit.%I FOR VALUES FROM (%L) TO (%L)',
        partition, wanted::timestamptz, (wanted + 1)::timestamptz);
    RETURN true;
END
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION audit.ensure_partition(date) FROM PUBLIC;

GRANT SELECT, INSERT ON audit.events TO audit_app;
GRANT SELECT ON audit.dropped_partitions TO audit_app;
GRANT SELECT, UPDATE (size, frontier, root, checkpoint, public_key, updated_at) ON audit.tree TO audit_app;
GRANT SELECT, INSERT, UPDATE (data) ON audit.tiles TO audit_app;
GRANT EXECUTE ON FUNCTION audit.ensure_partition(date) TO audit_app;

-- +goose Down
CREATE TABLE audit.events_before (
    event_id    uuid        CONSTRAINT events_before_pkey PRIMARY KEY,
    timestamp   timestamptz NOT NULL,
    agent_id    uuid,
    actor_id    uuid,
    action      text        NOT NULL,
    outcome     text        NOT NULL CONSTRAINT events_outcome_check CHECK (outcome IN ('success', 'failure')),
    service     text        NOT NULL,
    payload     json        NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO audit.events_before
SELECT event_id, timestamp, agent_id, actor_id, action, outcome, service, payload, recorded_at FROM audit.events
ON CONFLICT DO NOTHING;
-- +goose StatementBegin
DO $$
BEGIN
    IF to_regclass('audit.events_unsequenced') IS NOT NULL THEN
        INSERT INTO audit.events_before
        SELECT event_id, timestamp, agent_id, actor_id, action, outcome, service, payload, recorded_at FROM audit.events_unsequenced
        ON CONFLICT DO NOTHING;
        DROP TABLE audit.events_unsequenced;
    END IF;
END
$$;
-- +goose StatementEnd
DROP FUNCTION audit.ensure_partition(date);
DROP TABLE audit.tiles;
DROP TABLE audit.tree;
DROP FUNCTION audit.require_tiles();
DROP FUNCTION audit.refuse_rewrite();
DROP TABLE audit.dropped_partitions;
DROP TABLE audit.events;
ALTER TABLE audit.events_before RENAME TO events;
ALTER TABLE audit.events RENAME CONSTRAINT events_before_pkey TO events_pkey;
CREATE INDEX events_newest   ON audit.events (timestamp DESC, event_id DESC);
CREATE INDEX events_agent    ON audit.events (agent_id, timestamp DESC, event_id DESC);
CREATE INDEX events_actor    ON audit.events (actor_id, timestamp DESC, event_id DESC);
CREATE INDEX events_action   ON audit.events (action, timestamp DESC, event_id DESC);
CREATE INDEX events_outcome  ON audit.events (outcome, timestamp DESC, event_id DESC);
CREATE TRIGGER events_immutable
    BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.events
    FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change();
ALTER TABLE audit.events ENABLE ALWAYS TRIGGER events_immutable;
GRANT SELECT, INSERT ON audit.events TO audit_app;
