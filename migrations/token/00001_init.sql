-- The schema of the token service: the keys it signs with, what it has revoked,
-- which agents' tokens are cut off, how much of its quota each agent has used,
-- and the outbox its events leave through. Redis holds copies of the second,
-- third and fourth; the truth is here.

-- +goose Up

CREATE TABLE token.outbox (
    event_id      uuid        NOT NULL,
    -- Grows with every row; of two changes of one agent, the later has the higher one, as its row lock was taken later.
    position      bigint      GENERATED ALWAYS AS IDENTITY,
    subject       text        NOT NULL,
    payload       bytea       NOT NULL,
    claimed_until timestamptz,
    CONSTRAINT outbox_pkey PRIMARY KEY (event_id)
);
CREATE INDEX outbox_by_position ON token.outbox (position);
-- Lifecycle messages leave in order, subject by subject.
CREATE INDEX outbox_lifecycle ON token.outbox (subject, position) WHERE subject LIKE 'lifecycle.%';

-- next: published in the JWKS, does not sign yet. active: signs. retired: signs
-- no more, stays published until gone_at, when the last token it signed has
-- expired; then the row is deleted. The id is the RFC 7638 thumbprint.
CREATE TABLE token.signing_keys (
    kid               text        NOT NULL,
    algorithm         text        NOT NULL,
    state             text        NOT NULL,
    -- PKCS #8, AES-256-GCM under KEY_ENCRYPTION_KEY: a 12-byte nonce, then the sealed bytes.
    sealed_key        bytea       NOT NULL,
    -- The longest lifetime of a token that any replica signs with this key.
    token_ttl_seconds integer     NOT NULL,
    created_at        timestamptz NOT NULL,
    activated_at      timestamptz,
    retired_at        timestamptz,
    gone_at           timestamptz,
    CONSTRAINT signing_keys_pkey PRIMARY KEY (kid),
    CONSTRAINT signing_keys_algorithm_known CHECK (algorithm IN ('RS256', 'ES256', 'EdDSA')),
    CONSTRAINT signing_keys_state_known CHECK (state IN ('next', 'active', 'retired')),
    CONSTRAINT signing_keys_ttl_range CHECK (token_ttl_seconds BETWEEN 1 AND 86400),
    CONSTRAINT signing_keys_times_with_state CHECK (
        (state = 'next') = (activated_at IS NULL)
        AND (state = 'retired') = (retired_at IS NOT NULL)
        AND (state = 'retired') = (gone_at IS NOT NULL))
);
-- One key signs, and one waits to, at most.
CREATE UNIQUE INDEX signing_keys_one_active ON token.signing_keys (state) WHERE state = 'active';
CREATE UNIQUE INDEX signing_keys_one_next ON token.signing_keys (state) WHERE state = 'next';

-- Tokens revoked before their time. A row is worth keeping until the token
-- would have expired anyway.
CREATE TABLE token.revocations (
    jti        uuid        NOT NULL,
    agent_id   uuid        NOT NULL,
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz NOT NULL,
    CONSTRAINT revocations_pkey PRIMARY KEY (jti)
);
CREATE INDEX revocations_by_expiry ON token.revocations (expires_at);

-- What the registry last said about an agent that was ever suspended,
-- reactivated or decommissioned. Monotonic in revision: an older message that
-- arrives late changes nothing.
CREATE TABLE token.agent_cutoffs (
    agent_id    uuid        NOT NULL,
    revision    bigint      NOT NULL,
    blocked     boolean     NOT NULL,
    valid_after timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    CONSTRAINT agent_cutoffs_pkey PRIMARY KEY (agent_id)
);
CREATE INDEX agent_cutoffs_by_time ON token.agent_cutoffs (recorded_at);

-- Tokens issued per agent and calendar month (UTC; the first of the month).
CREATE TABLE token.quota_usage (
    agent_id uuid   NOT NULL,
    month    date   NOT NULL,
    used     bigint NOT NULL,
    CONSTRAINT quota_usage_pkey PRIMARY KEY (agent_id, month),
    CONSTRAINT quota_usage_month_first CHECK (extract(day FROM month) = 1),
    CONSTRAINT quota_usage_not_negative CHECK (used >= 0)
) WITH (fillfactor = 80); -- room beside the row: used changes often, and touches no index

-- The service may do exactly this. A revocation is never changed, and a key's
-- secret is never replaced.
GRANT SELECT, INSERT, UPDATE, DELETE ON token.outbox TO token_app;
GRANT SELECT, INSERT, DELETE ON token.signing_keys TO token_app;
GRANT UPDATE (state, token_ttl_seconds, activated_at, retired_at, gone_at) ON token.signing_keys TO token_app;
GRANT SELECT, INSERT, DELETE ON token.revocations TO token_app;
GRANT SELECT, INSERT ON token.agent_cutoffs TO token_app;
GRANT UPDATE (revision, blocked, valid_after, recorded_at) ON token.agent_cutoffs TO token_app;
GRANT SELECT, INSERT ON token.quota_usage TO token_app;
GRANT UPDATE (used) ON token.quota_usage TO token_app;

-- +goose Down
DROP TABLE token.quota_usage;
DROP TABLE token.agent_cutoffs;
DROP TABLE token.revocations;
DROP TABLE token.signing_keys;
DROP TABLE token.outbox;
