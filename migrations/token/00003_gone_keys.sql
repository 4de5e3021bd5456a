-- Signing keys that are gone are remembered without their private halves: so that
-- none of them is imported again, and one can say later which key signed when.

-- +goose Up

CREATE TABLE token.gone_keys (
    kid          text        NOT NULL,
    algorithm    text        NOT NULL,
    created_at   timestamptz NOT NULL,
    activated_at timestamptz, -- null for a key that never signed
    retired_at   timestamptz, -- when it stopped to sign
    gone_at      timestamptz NOT NULL,
    CONSTRAINT gone_keys_pkey PRIMARY KEY (kid),
    CONSTRAINT gone_keys_times CHECK ((activated_at IS NULL) = (retired_at IS NULL))
);

GRANT SELECT, INSERT ON token.gone_keys TO token_app;

-- +goose Down
DROP TABLE token.gone_keys;
