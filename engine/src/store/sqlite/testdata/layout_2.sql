-- The embedded store. An id carries its parent's id in its upper bits (domain/id.rs). So children are a range of row ids, and no
-- foreign-key index is needed. A row in a queue table means "not finished". A finished delivery moves to its history table once and
-- is never updated again. Every payload has a codec (0: stored unchanged), so that compression can be added later.

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
    data         BLOB NOT NULL
) STRICT;
CREATE INDEX event_by_type ON event (type, id);
CREATE INDEX event_by_source ON event (source, id);
CREATE INDEX event_by_cause ON event (cause) WHERE cause IS NOT NULL;

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

-- Events that wait to be run. next_at (steady clock): when the event is due, or when its lease ends.
CREATE TABLE event_queue (
    id      INTEGER PRIMARY KEY,
    round   INTEGER NOT NULL,
    next_at INTEGER NOT NULL,
    lease   INTEGER
) STRICT;
CREATE INDEX event_queue_free ON event_queue (id) WHERE lease IS NULL;
CREATE INDEX event_queue_leased ON event_queue (next_at) WHERE lease IS NOT NULL;

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
    log_dropped INTEGER NOT NULL
) STRICT;

-- Unfinished runs: waiting until they are due, or parked until they are requeued.
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
CREATE INDEX run_queue_leased ON run_queue (next_at) WHERE lease IS NOT NULL;
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
CREATE INDEX live_leased ON live (next_at) WHERE lease IS NOT NULL;

-- Finished deliveries.
CREATE TABLE delivery (
    id       INTEGER PRIMARY KEY,
    endpoint INTEGER NOT NULL,
    round    INTEGER NOT NULL,
    state    TEXT NOT NULL CHECK (state IN ('delivered', 'dead', 'cancelled')),
    reason   TEXT,
    attempts INTEGER NOT NULL,
    at       INTEGER NOT NULL,                 -- wall clock, ms
    CHECK ((state = 'dead') = (reason IS NOT NULL))
) STRICT;
CREATE INDEX delivery_by_endpoint ON delivery (endpoint, id);
CREATE INDEX delivery_unhappy ON delivery (state, id) WHERE state <> 'delivered';

-- Webhook contents that plugins made. A delivery without a row here sends its event's data.
CREATE TABLE payload (
    id           INTEGER PRIMARY KEY,
    type         TEXT,
    content_type TEXT NOT NULL,
    headers      TEXT,                         -- JSON array of [name, value]
    codec        INTEGER NOT NULL,
    body         BLOB NOT NULL
) STRICT;

CREATE TABLE attempt (
    id             INTEGER PRIMARY KEY,
    at             INTEGER NOT NULL,           -- wall clock, ms
    outcome        TEXT NOT NULL,
    status         INTEGER,
    latency_us     INTEGER NOT NULL,
    detail         TEXT,
    excerpt        BLOB NOT NULL,
    retry_after_ms INTEGER
) STRICT;

-- State of plugins. The version is the id of the run that wrote the value: no two writes have the same version.
CREATE TABLE state (
    plugin  TEXT NOT NULL,
    key     TEXT NOT NULL,
    value   BLOB NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (plugin, key)
) STRICT, WITHOUT ROWID;

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

CREATE TABLE plugin (
    name           TEXT PRIMARY KEY,
    version        BLOB NOT NULL,
    author_version TEXT NOT NULL,
    description    TEXT NOT NULL,
    patterns       TEXT NOT NULL,              -- JSON array
    file           TEXT NOT NULL,
    bytes          INTEGER NOT NULL,
    config         TEXT NOT NULL               -- JSON object
) STRICT, WITHOUT ROWID;

CREATE TABLE api_key (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL UNIQUE,
    role       TEXT NOT NULL,
    hash       BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,                        -- wall clock, ms
    last_used_at INTEGER                       -- wall clock, ms; exact to a minute
) STRICT;

-- Audit trail. An entry is written before its change and completed with the answer's status.
CREATE TABLE audit (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    at     INTEGER NOT NULL,                   -- wall clock, ms
    key    TEXT NOT NULL,                      -- the name of the key
    action TEXT NOT NULL,
    target TEXT,
    status INTEGER                             -- NULL: under way, or the engine ended during the change
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
