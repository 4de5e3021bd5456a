-- The service may read which version its schema is at: it waits until that is the one it needs.

-- +goose Up
GRANT SELECT ON credentials.goose_db_version TO credentials_app;

-- +goose Down
REVOKE SELECT ON credentials.goose_db_version FROM credentials_app;
