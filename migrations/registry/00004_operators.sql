-- An operator that was decommissioned may have a successor: one agent at most has no registrar and is not decommissioned.
--
-- The index keeps its name, by which the release before knows that another replica was faster. That release cannot tell the
-- operator from its predecessors, and fails at a bootstrap where there are any; it does not fail at anything else.

-- What was cut off is done again from its beginning: half an index has the name of a whole one. The one takes the other's
-- place in one statement, so that there is always a whole one of the name.

-- +goose NO TRANSACTION

-- +goose Up
DROP INDEX CONCURRENTLY IF EXISTS registry.agents_one_living_operator;
CREATE UNIQUE INDEX CONCURRENTLY agents_one_living_operator ON registry.agents ((registered_by IS NULL))
    WHERE registered_by IS NULL AND status <> 'decommissioned';
-- +goose StatementBegin
DO $$ BEGIN
    PERFORM set_config('lock_timeout', '2s', true);
    DROP INDEX IF EXISTS registry.agents_one_operator;
    ALTER INDEX registry.agents_one_living_operator RENAME TO agents_one_operator;
END $$;
-- +goose StatementEnd

-- +goose Down
-- It fails where an operator has predecessors: they are in the trail, and do not go.
DROP INDEX CONCURRENTLY IF EXISTS registry.agents_one_operator_ever;
CREATE UNIQUE INDEX CONCURRENTLY agents_one_operator_ever ON registry.agents ((registered_by IS NULL))
    WHERE registered_by IS NULL;
-- +goose StatementBegin
DO $$ BEGIN
    PERFORM set_config('lock_timeout', '2s', true);
    DROP INDEX IF EXISTS registry.agents_one_operator;
    ALTER INDEX registry.agents_one_operator_ever RENAME TO agents_one_operator;
END $$;
-- +goose StatementEnd
