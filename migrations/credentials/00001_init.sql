-- The schema of the credentials service: what it keeps of each agent, the
-- credentials themselves, and the outbox their events leave through.

-- +goose Up

-- One row per agent that ever asked for a credential or was decommissioned.
-- It is what is locked while the credentials of an agent are counted, so that
-- the limit is exact, and it remembers a decommission for good, so that a
-- request that was on its way meanwhile finds it.
CREATE TABLE credentials.agents (
    agent_id          uuid        NOT NULL,
    decommissioned_at timestamptz,
    CONSTRAINT agents_pkey PRIMARY KEY (agent_id)
);

-- The hash is bcrypt's text. The fingerprint is the first 8 bytes of the SHA-256 of the secret:
-- it finds the one hash worth computing, and tells nothing about 256 random bits.
-- The hash and fingerprint of a revoked credential are erased.
CREATE TABLE credentials.credentials (
    credential_id         uuid        NOT NULL,
    agent_id              uuid        NOT NULL,
    status                text        NOT NULL DEFAULT 'active',
    secret_hash           bytea,
    secret_fingerprint    bytea,
    previous_hash         bytea,
    previous_fingerprint  bytea,
    previous_valid_until  timestamptz,
    created_at            timestamptz NOT NULL,
    expires_at            timestamptz,
    rotated_at            timestamptz,
    revoked_at            timestamptz,
    last_used_at          timestamptz,
    previous_last_used_at timestamptz,
    CONSTRAINT credentials_pkey PRIMARY KEY (credential_id),
    CONSTRAINT credentials_agent_fkey FOREIGN KEY (agent_id) REFERENCES credentials.agents (agent_id),
    CONSTRAINT credentials_status_known CHECK (status IN ('active', 'revoked')),
    CONSTRAINT credentials_revoked_at_with_status CHECK ((status = 'revoked') = (revoked_at IS NOT NULL)),
    CONSTRAINT credentials_secret_while_active CHECK (
        (status = 'active') = (secret_hash IS NOT NULL)
        AND (secret_hash IS NULL) = (secret_fingerprint IS NULL)),
    CONSTRAINT credentials_previous_whole CHECK (
        (previous_hash IS NULL) = (previous_fingerprint IS NULL)
        AND (previous_hash IS NULL OR (previous_valid_until IS NOT NULL AND status = 'active'))),
    CONSTRAINT credentials_fingerprint_size CHECK (
        octet_length(secret_fingerprint) = 8 AND octet_length(previous_fingerprint) = 8),
    CONSTRAINT credentials_expires_after_creation CHECK (expires_at > created_at)
) WITH (fillfactor = 90); -- room beside the row: last use changes often, and touches no index

-- Lists, newest first.
CREATE INDEX credentials_by_agent ON credentials.credentials (agent_id, created_at DESC, credential_id DESC);
-- A secret is looked up by its owner and its fingerprint.
CREATE INDEX credentials_by_secret ON credentials.credentials (agent_id, secret_fingerprint)
    WHERE secret_fingerprint IS NOT NULL;
CREATE INDEX credentials_by_previous_secret ON credentials.credentials (agent_id, previous_fingerprint)
    WHERE previous_fingerprint IS NOT NULL;
-- What counts towards the limit, and what a decommission revokes.
CREATE INDEX credentials_active ON credentials.credentials (agent_id, expires_at) WHERE status = 'active';

CREATE TABLE credentials.outbox (
    event_id      uuid        NOT NULL,
    -- Grows with every row; of two changes of one agent, the later has the higher one, as its row lock was taken later.
    position      bigint      GENERATED ALWAYS AS IDENTITY,
    subject       text        NOT NULL,
    payload       bytea       NOT NULL,
    claimed_until timestamptz,
    CONSTRAINT outbox_pkey PRIMARY KEY (event_id)
);
CREATE INDEX outbox_by_position ON credentials.outbox (position);
-- Lifecycle messages leave in order, subject by subject.
CREATE INDEX outbox_lifecycle ON credentials.outbox (subject, position) WHERE subject LIKE 'lifecycle.%';

-- The service may do exactly this. It deletes no credential, and never changes
-- whose a credential is, when it was created or when it expires.
GRANT SELECT, INSERT ON credentials.agents TO credentials_app;
GRANT UPDATE (decommissioned_at) ON credentials.agents TO credentials_app;
GRANT SELECT, INSERT ON credentials.credentials TO credentials_app;
GRANT UPDATE (status, secret_hash, secret_fingerprint, previous_hash, previous_fingerprint, previous_valid_until,
              rotated_at, revoked_at, last_used_at, previous_last_used_at) ON credentials.credentials TO credentials_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON credentials.outbox TO credentials_app;

-- +goose Down
DROP TABLE credentials.outbox;
DROP TABLE credentials.credentials;
DROP TABLE credentials.agents;
