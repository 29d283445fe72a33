-- From layout 5 to layout 6: adds revisions of the settings of plugins, and the names of changed members in the audit trail.

CREATE TABLE plugin_config (
    plugin   TEXT NOT NULL,
    revision INTEGER NOT NULL,
    at       INTEGER NOT NULL,                 -- wall clock, ms
    author   TEXT NOT NULL,                    -- name of the key
    config   TEXT NOT NULL,                    -- JSON object
    PRIMARY KEY (plugin, revision)
) STRICT, WITHOUT ROWID;
ALTER TABLE audit ADD COLUMN members TEXT;
