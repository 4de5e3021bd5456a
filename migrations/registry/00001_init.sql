-- +goose Up
CREATE TABLE registry.outbox (
    event_id      uuid PRIMARY KEY,
    subject       text NOT NULL,
    payload       bytea NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    claimed_until timestamptz
);
CREATE INDEX outbox_created_at_idx ON registry.outbox (created_at);
CREATE INDEX outbox_lifecycle_idx ON registry.outbox (subject, created_at) WHERE subject LIKE 'lifecycle.%';
GRANT SELECT, INSERT, UPDATE, DELETE ON registry.outbox TO registry_app;

-- +goose Down
DROP TABLE registry.outbox;
