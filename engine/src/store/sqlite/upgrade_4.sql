-- From layout 3 to layout 4: adds the size of each plugin's state, and an index of deleted endpoints.

CREATE INDEX endpoint_deleted ON endpoint (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE state_size (
    plugin TEXT PRIMARY KEY,
    keys   INTEGER NOT NULL,
    bytes  INTEGER NOT NULL                    -- keys and values
) STRICT, WITHOUT ROWID;
CREATE TRIGGER state_added AFTER INSERT ON state BEGIN
    INSERT INTO state_size (plugin, keys, bytes) VALUES (new.plugin, 1, octet_length(new.key) + length(new.value))
        ON CONFLICT (plugin) DO UPDATE SET keys = keys + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER state_changed AFTER UPDATE OF value ON state BEGIN
    UPDATE state_size SET bytes = bytes + length(new.value) - length(old.value) WHERE plugin = new.plugin;
END;
CREATE TRIGGER state_removed AFTER DELETE ON state BEGIN
    UPDATE state_size SET keys = keys - 1, bytes = bytes - octet_length(old.key) - length(old.value) WHERE plugin = old.plugin;
END;
INSERT INTO state_size (plugin, keys, bytes)
    SELECT plugin, count(*), sum(octet_length(key) + length(value)) FROM state GROUP BY plugin;
