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
-- the leaf that they take next.
CREATE TABLE audit.cursors (
    name       text        PRIMARY KEY,
    next_leaf  bigint      NOT NULL CHECK (next_leaf >= 0),
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 10);
GRANT SELECT, INSERT, UPDATE ON audit.cursors TO audit_app;

-- +goose Down
DROP TABLE audit.cursors;
DROP INDEX audit.events_agent;
DROP INDEX audit.events_agent_action;
DROP INDEX audit.events_actor;
DROP INDEX audit.events_action;
CREATE INDEX events_agent  ON audit.events (agent_id, timestamp DESC, event_id DESC);
CREATE INDEX events_actor  ON audit.events (actor_id, timestamp DESC, event_id DESC);
CREATE INDEX events_action ON audit.events (action, timestamp DESC, event_id DESC);
