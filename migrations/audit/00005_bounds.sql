-- What the service's role may do to the head and the tiles of the log is bounded
-- by what storing a batch needs: a step of the head that is too long, or that comes
-- without its tiles, and a tile ahead of the head would have no sequencer go on.
-- The schema's owner, and whoever is a member of it, is held to growing only.

-- +goose Up
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION audit.refuse_rewrite() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = ''
AS $$
DECLARE
    owner boolean := pg_has_role(current_user, (SELECT relowner FROM pg_catalog.pg_class WHERE oid = TG_RELID), 'MEMBER');
    leaves bigint;
BEGIN
    IF TG_OP = 'UPDATE' AND TG_TABLE_NAME = 'tree' THEN
        IF (owner OR OLD.public_key = '' OR NEW.public_key = OLD.public_key)
            AND (NEW.size > OLD.size AND (owner OR NEW.size - OLD.size <= 10000)
                OR NEW.size = OLD.size AND NEW.root = OLD.root AND NEW.frontier = OLD.frontier) THEN
            RETURN NEW;
        END IF;
    ELSIF TG_OP IN ('INSERT', 'UPDATE') AND TG_TABLE_NAME = 'tiles' THEN
        SELECT size INTO leaves FROM audit.tree;
        IF (TG_OP = 'INSERT' OR NEW.level = OLD.level AND NEW.index = OLD.index
                AND substring(NEW.data FROM 1 FOR length(OLD.data)) = OLD.data)
            AND (owner OR length(NEW.data) <= 32 * ((leaves >> (8 * NEW.level)) - 256 * NEW.index::numeric)) THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the audit log only grows, its tiles up to its head: % on %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;

-- Looked at when the transaction ends, as the head goes first and its tiles follow.
CREATE FUNCTION audit.require_tiles() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = ''
AS $$
DECLARE
    head   audit.tree;
    before bigint; -- hashes in the level
    after  bigint;
    bytes  bigint;
BEGIN
    IF pg_has_role(current_user, (SELECT relowner FROM pg_catalog.pg_class WHERE oid = TG_RELID), 'MEMBER') THEN
        RETURN NULL;
    END IF;
    SELECT * INTO head FROM audit.tree;
    IF length(head.frontier) <> 32 * bit_count(head.size::bit(64)) THEN
        RAISE EXCEPTION 'the frontier of the audit log is not that of % leaves', head.size USING ERRCODE = 'insufficient_privilege';
    END IF;
    FOR wanted IN 0..7 LOOP
        before := OLD.size >> (8 * wanted);
        after := head.size >> (8 * wanted);
        CONTINUE WHEN after = before;
        SELECT coalesce(sum(length(data)), 0) INTO bytes FROM audit.tiles
        WHERE level = wanted AND index BETWEEN before / 256 AND after / 256;
        IF bytes <> 32 * (after - before / 256 * 256) THEN
            RAISE EXCEPTION 'the audit log has no tiles of level % for % leaves', wanted, head.size
                USING ERRCODE = 'insufficient_privilege';
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER tiles_fit BEFORE INSERT ON audit.tiles FOR EACH ROW EXECUTE FUNCTION audit.refuse_rewrite();
ALTER TABLE audit.tiles ENABLE ALWAYS TRIGGER tiles_fit;
CREATE CONSTRAINT TRIGGER tree_has_tiles AFTER UPDATE ON audit.tree DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.size <> OLD.size) EXECUTE FUNCTION audit.require_tiles();
ALTER TABLE audit.tree ENABLE ALWAYS TRIGGER tree_has_tiles;

-- +goose Down
DROP TRIGGER tree_has_tiles ON audit.tree;
DROP TRIGGER tiles_fit ON audit.tiles;
DROP FUNCTION audit.require_tiles();
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION audit.refuse_rewrite() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = ''
AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND TG_TABLE_NAME = 'tree' THEN
        IF NEW.size > OLD.size OR NEW.size = OLD.size AND NEW.root = OLD.root AND NEW.frontier = OLD.frontier THEN
            IF OLD.public_key = '' OR NEW.public_key = OLD.public_key OR session_user <> 'audit_app' THEN
                RETURN NEW;
            END IF;
        END IF;
    ELSIF TG_OP = 'UPDATE' AND TG_TABLE_NAME = 'tiles' THEN
        IF NEW.level = OLD.level AND NEW.index = OLD.index
            AND substring(NEW.data FROM 1 FOR length(OLD.data)) = OLD.data THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the audit log only grows: % on %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;
-- +goose StatementEnd
