-- Which client assertions (RFC 7523) were used, so that none is used twice,
-- at whatever replica. A row counts until the assertion has expired.

-- +goose Up

CREATE TABLE token.assertion_ids (
    client_id  uuid        NOT NULL,
    -- SHA-256 of the jti: clients choose it, and it may be long.
    jti_hash   bytea       NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT assertion_ids_pkey PRIMARY KEY (client_id, jti_hash),
    CONSTRAINT assertion_ids_hash_length CHECK (octet_length(jti_hash) = 32)
);
CREATE INDEX assertion_ids_by_expiry ON token.assertion_ids (expires_at);

GRANT SELECT, INSERT, DELETE ON token.assertion_ids TO token_app;

-- +goose Down
DROP TABLE token.assertion_ids;
