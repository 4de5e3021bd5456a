-- Lists that few events match, or none, read a short range of one index as well:
-- failures have indexes of their own, which cost only the events that failed, and
-- what one agent did to another is a range. A list by outcome alone finds failures
-- in their index, and successes among the newest events.

-- +goose Up
DROP INDEX audit.events_outcome;
DROP INDEX audit.events_newest;
CREATE INDEX events_newest        ON audit.events (timestamp DESC, event_id DESC, outcome);
CREATE INDEX events_actor_agent   ON audit.events (actor_id, agent_id, timestamp DESC, event_id DESC, action, outcome);
CREATE INDEX events_failed        ON audit.events (timestamp DESC, event_id DESC) WHERE outcome = 'failure';
CREATE INDEX events_failed_action ON audit.events (action, timestamp DESC, event_id DESC) WHERE outcome = 'failure';
CREATE INDEX events_failed_agent  ON audit.events (agent_id, timestamp DESC, event_id DESC, action) WHERE outcome = 'failure';
CREATE INDEX events_failed_actor  ON audit.events (actor_id, timestamp DESC, event_id DESC, agent_id, action) WHERE outcome = 'failure';

-- +goose Down
DROP INDEX audit.events_failed_actor;
DROP INDEX audit.events_failed_agent;
DROP INDEX audit.events_failed_action;
DROP INDEX audit.events_failed;
DROP INDEX audit.events_actor_agent;
DROP INDEX audit.events_newest;
CREATE INDEX events_newest  ON audit.events (timestamp DESC, event_id DESC);
CREATE INDEX events_outcome ON audit.events (outcome, timestamp DESC, event_id DESC);
