-- From layout 6 to layout 7. First, what a run read in addition to its event.

ALTER TABLE run ADD COLUMN settings_revision INTEGER;
ALTER TABLE run ADD COLUMN state_read TEXT;

-- Settings that were stored before revisions had numbers become revision 1, so that recorded runs can name them.
INSERT INTO plugin_config (plugin, revision, at, author, config)
    SELECT name, 1, unixepoch() * 1000, 'upgrade', config FROM plugin
    WHERE config <> '{}' AND NOT EXISTS (SELECT 1 FROM plugin_config c WHERE c.plugin = name);

-- Versions of plugins with their bytes, and whether plugins run. The files that the next start finds become the first versions.

ALTER TABLE plugin ADD COLUMN state TEXT NOT NULL DEFAULT 'serving';

-- Versions of plugins. The version whose bytes are in `file` serves. A row without bytes only serves to recognize an old file.
CREATE TABLE plugin_version (
    version        BLOB PRIMARY KEY,           -- SHA-256 of the bytes
    plugin         TEXT NOT NULL,
    published_at   INTEGER NOT NULL,           -- wall clock, ms; of its last proposal
    candidate      INTEGER NOT NULL,           -- 1 until it serves
    served         INTEGER,                    -- the version of a plugin that began to serve last has the largest number
    ended_at       INTEGER,                    -- wall clock, ms; when it stopped serving
    author_version TEXT NOT NULL,
    description    TEXT NOT NULL,
    patterns       TEXT NOT NULL,              -- JSON array
    file_name      TEXT NOT NULL,
    bytes          INTEGER NOT NULL,
    way            TEXT NOT NULL,
    author         TEXT NOT NULL,              -- name of the key, or the folder
    file           BLOB,                       -- its bytes while it serves
    kept           BLOB                        -- its bytes while it does not
) STRICT;
CREATE UNIQUE INDEX plugin_version_serves ON plugin_version (plugin) WHERE file IS NOT NULL;
CREATE INDEX plugin_version_by_age ON plugin_version (plugin, published_at);

-- Comparisons of plugin versions.
CREATE TABLE comparison (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    plugin      TEXT NOT NULL,
    serving     BLOB NOT NULL,
    candidate   BLOB NOT NULL,
    request     TEXT NOT NULL,                 -- JSON object
    state       TEXT NOT NULL CHECK (state IN ('running', 'done', 'cancelled')),
    cursor      INTEGER,                       -- runs from this id on were compared
    report      TEXT NOT NULL,                 -- JSON object
    problem     TEXT,                          -- why it ended early
    created_at  INTEGER NOT NULL,              -- wall clock, ms
    finished_at INTEGER,
    CHECK ((state = 'running') = (finished_at IS NULL))
) STRICT;

-- Counts of the requests to each source. Counting begins with this upgrade.
ALTER TABLE source ADD COLUMN requests TEXT NOT NULL DEFAULT '{}';

-- Counts over time. A row is a sheet. It holds either the cells of one hour, one for each minute, or the cells of one UTC day, one
-- for each hour.
CREATE TABLE stats (
    about TEXT NOT NULL,
    cell  INTEGER NOT NULL,                 -- length of a cell, ms
    sheet INTEGER NOT NULL,                 -- start of the sheet, wall clock, ms
    cells TEXT NOT NULL,                    -- JSON object: counts by the number of the cell
    PRIMARY KEY (about, cell, sheet)
) STRICT, WITHOUT ROWID;
CREATE INDEX stats_by_age ON stats (cell, sheet);

-- State with a time to live.

ALTER TABLE state ADD COLUMN expires_at INTEGER;
CREATE INDEX state_expires ON state (expires_at) WHERE expires_at IS NOT NULL;

-- Indexes for the search, and for the dead deliveries of one endpoint.

CREATE INDEX event_by_caller_id ON event (caller_id, id) WHERE caller_id IS NOT NULL;
CREATE INDEX event_by_subject ON event (subject, id) WHERE subject IS NOT NULL;
CREATE INDEX delivery_unhappy_by_endpoint ON delivery (endpoint, state, id) WHERE state <> 'delivered';

-- Scheduled events, which take place later. Like the id of a run, an id here consists of the id of the cause and a number. A row is
-- deleted when its event is accepted.
CREATE TABLE scheduled (
    id           INTEGER PRIMARY KEY,
    due_at       INTEGER NOT NULL,             -- wall clock, ms
    cancelled_at INTEGER,                      -- wall clock, ms; NULL: it waits
    source       TEXT NOT NULL,
    type         TEXT NOT NULL,
    subject      TEXT,
    content_type TEXT NOT NULL,
    attributes   TEXT,                         -- JSON array of [name, value]
    depth        INTEGER NOT NULL,
    codec        INTEGER NOT NULL,
    data         BLOB NOT NULL
) STRICT;
CREATE INDEX scheduled_due ON scheduled (due_at) WHERE cancelled_at IS NULL;
CREATE INDEX scheduled_by_source ON scheduled (source) WHERE cancelled_at IS NULL;
