-- The embedded store. An id carries its parent's id in its upper bits (domain/id.rs). So children are a range of row ids, and no
-- foreign-key index is needed. A row in a queue table means "not finished". A finished delivery moves to its history table once
-- and is never updated again. Every payload has a codec (0: stored unchanged), so that compression can be added later.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE event (
    id           INTEGER PRIMARY KEY,
    accepted_at  INTEGER NOT NULL,             -- wall clock, ms
    source       TEXT NOT NULL,
    caller_id    TEXT,
    type         TEXT NOT NULL,
    subject      TEXT,
    time         TEXT,                         -- as the caller wrote it
    content_type TEXT NOT NULL,
    attributes   TEXT,                         -- JSON array of [name, value]
    depth        INTEGER NOT NULL,
    cause        INTEGER,                      -- id of the event whose run emitted this one
    codec        INTEGER NOT NULL,
    data         BLOB NOT NULL,
    request      TEXT,                         -- JSON array: method, query and headers of a source's request
    body         BLOB                          -- body of that request, if it differs from the data
) STRICT;
CREATE INDEX event_by_type ON event (type, id);
CREATE INDEX event_by_source ON event (source, id);
CREATE INDEX event_by_cause ON event (cause) WHERE cause IS NOT NULL;
CREATE INDEX event_by_caller_id ON event (caller_id, id) WHERE caller_id IS NOT NULL;
CREATE INDEX event_by_subject ON event (subject, id) WHERE subject IS NOT NULL;

-- The first event id of each minute (wall clock). Filters and retention use it to turn times into ids.
CREATE TABLE minute (
    minute   INTEGER PRIMARY KEY,
    first_id INTEGER NOT NULL
) STRICT;

CREATE TABLE dedup (
    source    TEXT NOT NULL,
    caller_id TEXT NOT NULL,
    event_id  INTEGER NOT NULL,
    PRIMARY KEY (source, caller_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX dedup_by_event ON dedup (event_id);

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

-- Events that wait to be run. next_at (steady clock): when the event is due, or when its lease ends.
CREATE TABLE event_queue (
    id      INTEGER PRIMARY KEY,
    round   INTEGER NOT NULL,
    next_at INTEGER NOT NULL,
    lease   INTEGER
) STRICT;
CREATE INDEX event_queue_free ON event_queue (id) WHERE lease IS NULL;

CREATE TABLE unrouted (id INTEGER PRIMARY KEY) STRICT;

-- Number of replays of an event.
CREATE TABLE replay (
    id     INTEGER PRIMARY KEY,
    rounds INTEGER NOT NULL
) STRICT;

CREATE TABLE run (
    id          INTEGER PRIMARY KEY,
    round       INTEGER NOT NULL,
    plugin      TEXT NOT NULL,
    version     BLOB,
    endpoint    INTEGER,
    outcome     TEXT,
    code        TEXT,
    message     TEXT,
    tries       INTEGER NOT NULL,
    took_us     INTEGER NOT NULL,
    memory_peak INTEGER NOT NULL,
    webhooks    INTEGER NOT NULL,
    emitted     INTEGER NOT NULL,
    log         TEXT,                          -- JSON array of [level, message]
    log_dropped INTEGER NOT NULL,
    settings_revision INTEGER,                 -- of the plugin's settings; NULL: not executed, or not recorded (layouts before 7)
    state_read  TEXT                           -- JSON object: the state that it read; NULL if it read none
) STRICT;

-- Unfinished runs: waiting until they are due, or parked until an operator or the engine requeues them.
CREATE TABLE run_queue (
    id       INTEGER PRIMARY KEY,
    plugin   TEXT NOT NULL,
    endpoint INTEGER,
    round    INTEGER NOT NULL,
    tries    INTEGER NOT NULL,
    state    TEXT NOT NULL CHECK (state IN ('waiting', 'parked')),
    outcome  TEXT,
    wants    TEXT,
    next_at  INTEGER NOT NULL,
    lease    INTEGER,
    CHECK (state = 'waiting' OR lease IS NULL)
) STRICT;
CREATE INDEX run_queue_free ON run_queue (plugin, next_at) WHERE state = 'waiting' AND lease IS NULL;
-- An event with unfinished runs delays the ordered deliveries of later events.
CREATE INDEX run_queue_waiting ON run_queue (id) WHERE state = 'waiting';
CREATE INDEX run_queue_parked ON run_queue (plugin, outcome) WHERE state = 'parked';
CREATE INDEX run_queue_wants ON run_queue (wants) WHERE state = 'parked' AND wants IS NOT NULL;

-- Deliveries that are not finished.
CREATE TABLE live (
    id       INTEGER PRIMARY KEY,
    endpoint INTEGER NOT NULL,
    round    INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    next_at  INTEGER NOT NULL,
    lease    INTEGER,
    ordering INTEGER                           -- rows of one endpoint with the same number are sent one after the other, by id
) STRICT;
-- First attempts and retries are claimed separately, so that neither starves the other.
CREATE INDEX live_free ON live (endpoint, attempts > 0, next_at) WHERE lease IS NULL AND ordering IS NULL;
CREATE INDEX live_ordered ON live (endpoint, ordering, id) WHERE ordering IS NOT NULL;

-- Finished deliveries.
CREATE TABLE delivery (
    id       INTEGER PRIMARY KEY,
    endpoint INTEGER NOT NULL,
    round    INTEGER NOT NULL,
    state    TEXT NOT NULL CHECK (state IN ('delivered', 'dead', 'cancelled')),
    reason   TEXT,
    attempts INTEGER NOT NULL,
    at       INTEGER NOT NULL,                 -- wall clock, ms
    cancel_reason TEXT,                        -- why it was cancelled; always NULL in rows of layouts before 5
    CHECK ((state = 'dead') = (reason IS NOT NULL))
) STRICT;
CREATE INDEX delivery_by_endpoint ON delivery (endpoint, id);
CREATE INDEX delivery_unhappy ON delivery (state, id) WHERE state <> 'delivered';
CREATE INDEX delivery_unhappy_by_endpoint ON delivery (endpoint, state, id) WHERE state <> 'delivered';

-- Webhook contents that plugins made. A delivery without a row here sends its event's data.
CREATE TABLE payload (
    id           INTEGER PRIMARY KEY,
    type         TEXT,
    content_type TEXT NOT NULL,
    headers      TEXT,                         -- JSON array of [name, value]
    codec        INTEGER NOT NULL,
    body         BLOB NOT NULL,
    run          INTEGER                       -- the run that made it; NULL in rows of layouts before 5
) STRICT;

CREATE TABLE attempt (
    id             INTEGER PRIMARY KEY,
    at             INTEGER NOT NULL,           -- wall clock, ms
    outcome        TEXT NOT NULL,
    status         INTEGER,
    latency_us     INTEGER NOT NULL,
    detail         TEXT,
    excerpt        BLOB NOT NULL,
    retry_after_ms INTEGER,
    sent           TEXT                        -- JSON object: the endpoint's settings that the request used, without secrets
) STRICT;

-- State of plugins. The version is the token of the lease that wrote the value: no two claims share a token.
CREATE TABLE state (
    plugin  TEXT NOT NULL,
    key     TEXT NOT NULL,
    value   BLOB NOT NULL,
    version INTEGER NOT NULL,
    expires_at INTEGER,                        -- wall clock, ms; NULL: never
    PRIMARY KEY (plugin, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX state_expires ON state (expires_at) WHERE expires_at IS NOT NULL;

-- Size of each plugin's state. Triggers maintain it, so that every statement that changes state also updates its size.
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

CREATE TABLE endpoint (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL,
    title      TEXT,
    url        TEXT NOT NULL,
    events     TEXT NOT NULL,                  -- JSON array of patterns
    conditions TEXT NOT NULL,                  -- JSON array of [attribute, [value]]
    plugin     TEXT,
    scheme     TEXT NOT NULL,
    state      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    deleted_at INTEGER,                        -- the row stays, so that histories can show its name
    policy     TEXT NOT NULL DEFAULT '{}',     -- JSON object
    sealed     BLOB,                           -- JSON object with its secrets, encrypted; NULL after deletion
    failing_since INTEGER                      -- wall clock, ms; set once it has failed for a while
) STRICT;
CREATE UNIQUE INDEX endpoint_name ON endpoint (name) WHERE deleted_at IS NULL;
CREATE INDEX endpoint_deleted ON endpoint (deleted_at) WHERE deleted_at IS NOT NULL;

-- Sources: inbound addresses for third parties.
CREATE TABLE source (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL UNIQUE,
    title      TEXT,
    draft      TEXT NOT NULL,                  -- JSON object: settings that differ from its preset
    created_at INTEGER NOT NULL,
    sealed     BLOB NOT NULL,                  -- JSON object with its address and its secrets, encrypted
    requests   TEXT NOT NULL DEFAULT '{}'      -- JSON object: counts of requests, and the last refused ones
) STRICT;

CREATE TABLE plugin (
    name           TEXT PRIMARY KEY,
    version        BLOB NOT NULL,
    author_version TEXT NOT NULL,
    description    TEXT NOT NULL,
    patterns       TEXT NOT NULL,              -- JSON array
    file           TEXT NOT NULL,
    bytes          INTEGER NOT NULL,
    config         TEXT NOT NULL,              -- JSON object
    state          TEXT NOT NULL DEFAULT 'serving' -- or why it does not run
) STRICT, WITHOUT ROWID;

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

-- Revisions of the settings of plugins, also of plugins that do not exist yet. The newest one is in effect.
CREATE TABLE plugin_config (
    plugin   TEXT NOT NULL,
    revision INTEGER NOT NULL,
    at       INTEGER NOT NULL,                 -- wall clock, ms
    author   TEXT NOT NULL,                    -- name of the key
    config   TEXT NOT NULL,                    -- JSON object
    PRIMARY KEY (plugin, revision)
) STRICT, WITHOUT ROWID;

CREATE TABLE api_key (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL UNIQUE,
    role       TEXT NOT NULL,
    hash       BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,                        -- wall clock, ms
    last_used_at INTEGER,                      -- wall clock, ms; exact to a minute
    ending     TEXT                            -- its last characters; NULL in rows of layouts before 5
) STRICT;

-- Audit trail. An entry is written before its change and completed with the answer's status.
CREATE TABLE audit (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    at     INTEGER NOT NULL,                   -- wall clock, ms
    key    TEXT NOT NULL,                      -- the name of the key
    action TEXT NOT NULL,
    target TEXT,
    status INTEGER,                            -- NULL: under way, or the engine ended during the change
    members TEXT                               -- JSON array with the names of the changed members
) STRICT;
CREATE INDEX audit_by_key ON audit (key, id);
CREATE INDEX audit_by_action ON audit (action, id);

-- Jobs: work over many rows, done in batches.
CREATE TABLE job (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    kind        TEXT NOT NULL,
    filter      TEXT NOT NULL,                 -- JSON object
    cursor      INTEGER NOT NULL,              -- ids below it are processed
    done        INTEGER NOT NULL,
    failed      INTEGER NOT NULL,
    total       INTEGER,
    state       TEXT NOT NULL CHECK (state IN ('running', 'done', 'cancelled')),
    created_at  INTEGER NOT NULL,              -- wall clock, ms
    finished_at INTEGER,
    CHECK ((state = 'running') = (finished_at IS NULL))
) STRICT;
CREATE INDEX job_running ON job (id) WHERE state = 'running';

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
