-- From layout 1 to layout 2: adds an index of deleted endpoints, and the size of each plugin's state. The lock prevents changes of
-- state between the count and the creation of the triggers.

CREATE INDEX endpoint_deleted ON endpoint (deleted_at) WHERE deleted_at IS NOT NULL;

LOCK TABLE state IN SHARE ROW EXCLUSIVE MODE;
CREATE TABLE state_size (
    plugin text NOT NULL,
    slot   bigint NOT NULL,
    keys   bigint NOT NULL,
    bytes  bigint NOT NULL,                   -- keys and values
    PRIMARY KEY (plugin, slot)
) WITH (fillfactor = 50);
CREATE FUNCTION count_state() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO state_size AS s (plugin, slot, keys, bytes)
            SELECT plugin, pg_backend_pid() % 64, count(*), sum(octet_length(key) + octet_length(value)) FROM added
            GROUP BY plugin ORDER BY plugin
            ON CONFLICT (plugin, slot) DO UPDATE SET keys = s.keys + excluded.keys, bytes = s.bytes + excluded.bytes;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO state_size AS s (plugin, slot, keys, bytes)
            SELECT plugin, pg_backend_pid() % 64, -count(*), -sum(octet_length(key) + octet_length(value)) FROM removed
            GROUP BY plugin ORDER BY plugin
            ON CONFLICT (plugin, slot) DO UPDATE SET keys = s.keys + excluded.keys, bytes = s.bytes + excluded.bytes;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER state_added AFTER INSERT ON state REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION count_state();
CREATE TRIGGER state_changed AFTER UPDATE ON state REFERENCING OLD TABLE AS removed NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_state();
CREATE TRIGGER state_removed AFTER DELETE ON state REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION count_state();
INSERT INTO state_size (plugin, slot, keys, bytes)
    SELECT plugin, 0, count(*), sum(octet_length(key) + octet_length(value)) FROM state GROUP BY plugin;
