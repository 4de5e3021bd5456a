-- What witnesses of the audit log have signed (C2SP tlog-witness). Nothing here is
-- evidence by itself: a cosignature is checked with the witness's key, by whoever
-- reads it.

-- +goose Up

-- How far each witness has come: the size of the newest checkpoint that it signed,
-- which it has to be told with the next one, and its signature line.
CREATE TABLE audit.witnesses (
    key         text        PRIMARY KEY, -- the public key
    size        bigint      NOT NULL CHECK (size >= 0),
    cosignature text        NOT NULL,
    signed_at   timestamptz NOT NULL DEFAULT now()
);

-- The newest checkpoint that enough witnesses signed, with their signatures, and
-- which replica talks to them until when.
CREATE TABLE audit.cosigned (
    one        boolean     PRIMARY KEY DEFAULT true CHECK (one),
    size       bigint      NOT NULL DEFAULT 0,
    checkpoint text        NOT NULL DEFAULT '',
    cosigned_at timestamptz NOT NULL DEFAULT '-infinity',
    holder     uuid,
    held_until timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO audit.cosigned DEFAULT VALUES;

GRANT SELECT, INSERT, UPDATE ON audit.witnesses TO audit_app;
GRANT SELECT, UPDATE ON audit.cosigned TO audit_app;

-- +goose Down
DROP TABLE audit.cosigned;
DROP TABLE audit.witnesses;
