-- The schema of the registry: the agents, how many there are, the registrations that are remembered under an
-- idempotency key, and the outbox that events leave through.

-- +goose Up

CREATE TABLE registry.outbox (
    event_id      uuid        NOT NULL,
    -- Grows with every row; of two changes of one agent, the later has the higher one, as its row lock was taken later.
    position      bigint      GENERATED ALWAYS AS IDENTITY,
    subject       text        NOT NULL,
    payload       bytea       NOT NULL,
    claimed_until timestamptz,
    CONSTRAINT outbox_pkey PRIMARY KEY (event_id)
);
CREATE INDEX outbox_by_position ON registry.outbox (position);
-- Lifecycle messages leave in order, subject by subject.
CREATE INDEX outbox_lifecycle ON registry.outbox (subject, position) WHERE subject LIKE 'lifecycle.%';

-- A row is never deleted: a decommissioned agent stays readable, and its address stays taken.
CREATE TABLE registry.agents (
    agent_id           uuid        NOT NULL,
    email              text        NOT NULL,
    agent_type         text        NOT NULL,
    version            text        NOT NULL,
    capabilities       text[]      NOT NULL,
    owner              text        NOT NULL,
    deployment_env     text        NOT NULL,
    allowed_scopes     text[]      NOT NULL,
    status             text        NOT NULL,
    -- The agent whose token registered this one; null for the bootstrap operator.
    registered_by      uuid,
    created_at         timestamptz NOT NULL,
    updated_at         timestamptz NOT NULL,
    -- Grows by one with every change; the ETag is made of it.
    revision           bigint      NOT NULL,
    -- Tokens issued at or before this moment are refused; null while the status never changed.
    tokens_valid_after timestamptz,
    CONSTRAINT agents_pkey PRIMARY KEY (agent_id),
    CONSTRAINT agents_status_known CHECK (status IN ('active', 'suspended', 'decommissioned')),
    CONSTRAINT agents_agent_type_known CHECK (agent_type IN
        ('screener', 'classifier', 'orchestrator', 'extractor', 'summarizer', 'router', 'monitor', 'custom')),
    CONSTRAINT agents_deployment_env_known CHECK (deployment_env IN ('development', 'staging', 'production')),
    CONSTRAINT agents_email_length CHECK (length(email) BETWEEN 3 AND 254),
    CONSTRAINT agents_owner_length CHECK (length(owner) BETWEEN 1 AND 128),
    CONSTRAINT agents_capabilities_count CHECK (cardinality(capabilities) BETWEEN 1 AND 64),
    CONSTRAINT agents_revision_positive CHECK (revision >= 1)
) WITH (fillfactor = 90);

-- Addresses are ASCII, so that the C collation's lower() is exact and the same on every server.
CREATE UNIQUE INDEX agents_email_unique ON registry.agents (lower(email COLLATE "C"));
-- One agent at most has no registrar: the bootstrap operator.
CREATE UNIQUE INDEX agents_one_operator ON registry.agents ((registered_by IS NULL)) WHERE registered_by IS NULL;
-- The order of lists, as a whole and for each owner.
CREATE INDEX agents_newest_first ON registry.agents (created_at DESC, agent_id DESC);
CREATE INDEX agents_by_owner ON registry.agents (owner, created_at DESC, agent_id DESC);
CREATE INDEX agents_by_capability ON registry.agents USING gin (capabilities);

-- One row. The lock on it makes the limit exact: whoever registers or decommissions an agent changes the count
-- in the same transaction.
CREATE TABLE registry.fleet (
    only_row boolean NOT NULL DEFAULT true,
    -- Agents that are not decommissioned.
    living   bigint  NOT NULL,
    CONSTRAINT fleet_pkey PRIMARY KEY (only_row),
    CONSTRAINT fleet_only_row CHECK (only_row),
    CONSTRAINT fleet_living_not_negative CHECK (living >= 0)
) WITH (fillfactor = 10); -- room beside the row: living changes often, and touches no index
INSERT INTO registry.fleet (living) VALUES (0);

-- Registrations that are answered again when their caller repeats them.
CREATE TABLE registry.idempotency_keys (
    caller_id       uuid        NOT NULL,
    idempotency_key text        NOT NULL,
    -- SHA-256 of the body's canonical form.
    fingerprint     bytea       NOT NULL,
    -- The agent as it was registered, whatever became of it.
    result          jsonb       NOT NULL,
    expires_at      timestamptz NOT NULL,
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (caller_id, idempotency_key)
);
CREATE INDEX idempotency_keys_by_expiry ON registry.idempotency_keys (expires_at);

-- The service may do exactly this. What is immutable about an agent is so for its role too.
GRANT SELECT, INSERT, UPDATE, DELETE ON registry.outbox TO registry_app;
GRANT SELECT, INSERT ON registry.agents TO registry_app;
GRANT UPDATE (agent_type, version, capabilities, owner, deployment_env, allowed_scopes, status, updated_at,
    revision, tokens_valid_after) ON registry.agents TO registry_app;
GRANT SELECT, UPDATE (living) ON registry.fleet TO registry_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON registry.idempotency_keys TO registry_app;

-- +goose Down

DROP TABLE registry.idempotency_keys;
DROP TABLE registry.fleet;
DROP TABLE registry.agents;
DROP TABLE registry.outbox;
