-- From layout 3 to layout 4: adds revisions of the settings of plugins, and the names of changed members in the audit trail.

CREATE TABLE plugin_config (
    plugin   text NOT NULL,
    revision bigint NOT NULL,
    at       bigint NOT NULL,                 -- wall clock, ms
    author   text NOT NULL,                   -- name of the key
    config   text NOT NULL,                   -- JSON object
    PRIMARY KEY (plugin, revision)
);
ALTER TABLE audit ADD COLUMN members text;
