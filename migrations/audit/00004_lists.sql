-- The indexes of GET /audit for millions of events: every combination of an agent,
-- an action and a span of time is a range of one index in the order of the list,
-- and what else a filter asks for is read off the same index, without the rows.

-- +goose Up
DROP INDEX audit.events_agent;
DROP INDEX audit.events_actor;
DROP INDEX audit.events_action;
CREATE INDEX events_agent        ON audit.events (agent_id, timestamp DESC, event_id DESC, outcome);
CREATE INDEX events_agent_action ON audit.events (agent_id, action, timestamp DESC, event_id DESC, outcome);
CREATE INDEX events_actor        ON audit.events (actor_id, timestamp DESC, event_id DESC, action, outcome);
CREATE INDEX events_action       ON audit.events (action, timestamp DESC, event_id DESC, outcome);

-- How far each of those who read the log from its beginning to its end has come:
-- the leaf that it takes next, and which replica does so for the time being.
CREATE TABLE audit.cursors (
    name       text        PRIMARY KEY,
    next_leaf  bigint      NOT NULL CHECK (next_leaf >= 0),
    holder     uuid,
    held_until timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 10);
INSERT INTO audit.cursors (name, next_leaf) SELECT 'onward', size FROM audit.tree;
GRANT SELECT, UPDATE ON audit.cursors TO audit_app;

-- +goose Down
DROP TABLE audit.cursors;
DROP INDEX audit.events_agent;
DROP INDEX audit.events_agent_action;
DROP INDEX audit.events_actor;
DROP INDEX audit.events_action;
CREATE INDEX events_agent  ON audit.events (agent_id, timestamp DESC, event_id DESC);
CREATE INDEX events_actor  ON audit.events (actor_id, timestamp DESC, event_id DESC);
CREATE INDEX events_action ON audit.events (action, timestamp DESC, event_id DESC);
