-- The audit trail: events that nobody changes, and the messages that could not
-- become events. audit_owner owns both tables; audit_app, the service's role,
-- may read and add and nothing else.

-- +goose Up
CREATE TABLE audit.events (
    event_id    uuid        PRIMARY KEY,
    timestamp   timestamptz NOT NULL,
    agent_id    uuid,
    actor_id    uuid,
    action      text        NOT NULL,
    outcome     text        NOT NULL CHECK (outcome IN ('success', 'failure')),
    service     text        NOT NULL,
    -- The event exactly as its publisher wrote it, fields this version does not
    -- know included. json and not jsonb: jsonb refuses the escape \u0000, and
    -- rewrites numbers and the order of keys.
    payload     json        NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);

-- One index per filter, each in the order of the list, so that a page is a
-- range of one index and never a sort.
CREATE INDEX events_newest   ON audit.events (timestamp DESC, event_id DESC);
CREATE INDEX events_agent    ON audit.events (agent_id, timestamp DESC, event_id DESC);
CREATE INDEX events_actor    ON audit.events (actor_id, timestamp DESC, event_id DESC);
CREATE INDEX events_action   ON audit.events (action, timestamp DESC, event_id DESC);
CREATE INDEX events_outcome  ON audit.events (outcome, timestamp DESC, event_id DESC);

-- +goose StatementBegin
CREATE FUNCTION audit.refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = ''
AS $$
BEGIN
    RAISE EXCEPTION 'audit events are immutable: % on %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;
-- +goose StatementEnd

-- Grants stop the service's role; the trigger stops the owner too. ALWAYS: also
-- in sessions that play a replica, where ordinary triggers sleep.
CREATE TRIGGER events_immutable
    BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.events
    FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change();
ALTER TABLE audit.events ENABLE ALWAYS TRIGGER events_immutable;

-- Messages of the audit stream that cannot be stored as events, kept for an
-- operator to look at. A redelivered message finds its own row by its place in
-- the stream; the time tells a recreated stream, which counts from 1 again.
CREATE TABLE audit.dead_letters (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream_sequence bigint      NOT NULL,
    published_at    timestamptz NOT NULL,
    subject         text        NOT NULL,
    reason          text        NOT NULL,
    payload         bytea       NOT NULL,
    payload_bytes   bigint      NOT NULL,
    received_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT dead_letters_message UNIQUE (stream_sequence, published_at)
);

GRANT SELECT, INSERT ON audit.events, audit.dead_letters TO audit_app;

-- +goose Down
DROP TABLE audit.dead_letters;
DROP TABLE audit.events;
DROP FUNCTION audit.refuse_change();
