-- The service may read which version its schema is at: it waits until that is the one it needs.

-- +goose Up
GRANT SELECT ON audit.goose_db_version TO audit_app;

-- +goose Down
REVOKE SELECT ON audit.goose_db_version FROM audit_app;
