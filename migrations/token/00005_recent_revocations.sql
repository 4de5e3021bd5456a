-- Every replica looks for what others have revoked lately.

-- +goose NO TRANSACTION

-- +goose Up
DROP INDEX CONCURRENTLY IF EXISTS token.revocations_by_time;
CREATE INDEX CONCURRENTLY revocations_by_time ON token.revocations (revoked_at);

-- +goose Down
DROP INDEX CONCURRENTLY IF EXISTS token.revocations_by_time;
