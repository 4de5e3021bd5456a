-- What Vault has yet to delete: of revoked credentials everything, of rotated ones the version before. A row is written with the
-- change that makes it so and goes once Vault has done it, so that nothing stays where Vault was away or a replica was killed.
--
-- credentials.secret_hash and previous_hash have, for a secret that is in Vault, 'vault:' and the number of its version instead
-- of bcrypt's text: the release before cannot check such a secret, and fails at it instead of calling it wrong.

-- +goose Up
CREATE TABLE credentials.vault_deletions (
    deletion_id   bigint      GENERATED ALWAYS AS IDENTITY,
    agent_id      uuid        NOT NULL,
    credential_id uuid        NOT NULL,
    version       integer     NOT NULL, -- 0 for all versions, and the entry itself
    due_at        timestamptz NOT NULL,
    claimed_until timestamptz,          -- a replica is at it until then, or was killed meanwhile
    CONSTRAINT vault_deletions_pkey PRIMARY KEY (deletion_id),
    CONSTRAINT vault_deletions_version CHECK (version >= 0)
);
CREATE INDEX vault_deletions_due ON credentials.vault_deletions (due_at);
GRANT SELECT, INSERT, DELETE ON credentials.vault_deletions TO credentials_app;
GRANT UPDATE (claimed_until) ON credentials.vault_deletions TO credentials_app;

-- +goose Down
DROP TABLE credentials.vault_deletions;
