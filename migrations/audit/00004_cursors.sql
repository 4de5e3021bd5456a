-- +goose Up
-- How far each of those who read the log from its beginning to its end has come:
-- the leaf that it takes next, and which replica does so for the time being.
CREATE TABLE audit.cursors (
    name       text        PRIMARY KEY,
    next_leaf  bigint      NOT NULL CHECK (next_leaf >= 0),
    holder     uuid,
    held_until timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 10);
INSERT INTO audit.cursors (name, next_leaf) SELECT 'onward', size FROM audit.tree;
GRANT SELECT, UPDATE ON audit.cursors TO audit_app;

-- +goose Down
DROP TABLE audit.cursors;
