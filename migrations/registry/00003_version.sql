-- The service may read which version its schema is at: it waits until that is the one it needs.

-- +goose Up
GRANT SELECT ON registry.goose_db_version TO registry_app;

-- +goose Down
REVOKE SELECT ON registry.goose_db_version FROM registry_app;
