-- How many events there are of each day, by agent, actor, action and outcome, so that a list
-- knows how long it is, and in which days, before it opens any of their partitions.
--
-- The events that there are already are counted here, in the transaction that brings the
-- trigger which counts all others: none is left out and none is counted twice. Meanwhile no
-- event is stored, those that come wait in the stream; nobody who reads is held up.

-- +goose Up
SET LOCAL lock_timeout = '2s';

CREATE TABLE audit.day_counts (
    -- With an agent: what the actor, null if nobody knows who, did to it. With an actor alone:
    -- what it did to others than itself, and to none. With neither: all that was done.
    agent_id uuid,
    actor_id uuid,
    day      date   NOT NULL, -- in UTC, as partitions are
    action   text   NOT NULL,
    outcome  text   NOT NULL,
    events   bigint NOT NULL CHECK (events > 0),
    CONSTRAINT day_counts_key UNIQUE NULLS NOT DISTINCT (agent_id, actor_id, day, action, outcome)
) WITH (fillfactor = 70); -- each batch changes rows of its day, which are to stay in their pages
-- Without this nothing could be counted where an operator publishes all tables.
ALTER TABLE audit.day_counts REPLICA IDENTITY FULL;

-- The agents and actors of the rows that count one event. What an agent does to itself, as
-- most do, has no row of the actor's.
-- +goose StatementBegin
CREATE FUNCTION audit.counted_as(agent uuid, actor uuid) RETURNS TABLE (agent_id uuid, actor_id uuid)
    LANGUAGE sql
    IMMUTABLE
AS $$
    SELECT agent, actor WHERE agent IS NOT NULL
    UNION ALL SELECT NULL, actor WHERE actor IS NOT NULL AND agent IS DISTINCT FROM actor
    UNION ALL SELECT NULL, NULL
$$;
-- +goose StatementEnd

-- It works as the owner: the service's role, which stores events, could not make a count
-- wrong, and may not have its own tables counted. Temporary objects, which a session may be
-- allowed to make, come last in the path: left out of it, its types would come first, and
-- run what they check as the owner. Rows go in the order of their key. Not ALWAYS: a replica
-- is told the counts too.
-- +goose StatementBegin
CREATE FUNCTION audit.count_added() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO audit.day_counts AS counts (agent_id, actor_id, day, action, outcome, events)
    SELECT counted.agent_id, counted.actor_id, (timestamp AT TIME ZONE 'UTC')::date, action, outcome, count(*)
    FROM added CROSS JOIN audit.counted_as(added.agent_id, added.actor_id) AS counted
    GROUP BY 1, 2, 3, 4, 5
    ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT ON CONSTRAINT day_counts_key DO UPDATE SET events = counts.events + excluded.events;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION audit.count_added() FROM PUBLIC;
ALTER FUNCTION audit.ensure_partition(date) SET search_path = pg_catalog, pg_temp; -- as above
CREATE TRIGGER events_counted AFTER INSERT ON audit.events REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION audit.count_added();

-- count_day counts the events of a day of which nothing is counted: those that were stored
-- past the trigger.
-- +goose StatementBegin
CREATE FUNCTION audit.count_day(wanted date) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
AS $$
    INSERT INTO audit.day_counts (agent_id, actor_id, day, action, outcome, events)
    SELECT counted.agent_id, counted.actor_id, wanted, action, outcome, count(*)
    FROM audit.events CROSS JOIN audit.counted_as(events.agent_id, events.actor_id) AS counted
    WHERE timestamp >= wanted::timestamptz AND timestamp < (wanted + 1)::timestamptz
    GROUP BY 1, 2, 4, 5
$$;
-- +goose StatementEnd

SELECT audit.count_day(to_date(relname, '"events_y"YYYY"m"MM"d"DD'))
FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = 'audit.events'::regclass;

GRANT SELECT ON audit.day_counts TO audit_app;

-- +goose Down
ALTER FUNCTION audit.ensure_partition(date) SET search_path = '';
DROP TRIGGER events_counted ON audit.events;
DROP FUNCTION audit.count_day(date);
DROP FUNCTION audit.count_added();
DROP FUNCTION audit.counted_as(uuid, uuid);
DROP TABLE audit.day_counts;
