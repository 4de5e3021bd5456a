-- Every replica looks for what others have revoked lately.

-- +goose NO TRANSACTION

-- +goose Up
CREATE INDEX CONCURRENTLY IF NOT EXISTS revocations_by_time ON token.revocations (revoked_at);

-- +goose Down
DROP INDEX CONCURRENTLY IF EXISTS token.revocations_by_time;
