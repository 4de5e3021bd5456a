-- The service may read which version its schema is at: it waits until that is the one it needs.

-- +goose Up
GRANT SELECT ON token.goose_db_version TO token_app;

-- +goose Down
REVOKE SELECT ON token.goose_db_version FROM token_app;
