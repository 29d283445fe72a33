-- The store of many nodes, in one Postgres database. An id carries its parent's id in its upper bits (domain/id.rs). So children are
-- a range of primary keys, and no foreign-key index is needed. A row in a queue table means "not finished". A finished delivery moves
-- to its history table once and is never updated again. Every payload has a codec (0: stored unchanged), so that compression can be
-- added later.
--
-- next_at is on the database's clock, in milliseconds, and beat is a counter: no node's clock decides which node may do what.

CREATE TABLE meta (
    key   text PRIMARY KEY,
    value bytea NOT NULL
);

-- One number per event, in the order in which nodes ask for it. If an event is submitted after another event was answered with 202,
-- it has the larger number.
CREATE SEQUENCE event_id;

-- Nodes that the other nodes consider alive. A lease token carries the id of its node in its upper bits.
CREATE TABLE node (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL,                 -- stays the same across restarts
    role       text NOT NULL,
    version    text NOT NULL,                 -- version of the engine
    address    text NOT NULL,
    started_at bigint NOT NULL,               -- the database's clock, ms
    seen_at    bigint NOT NULL,               -- for people; beat decides whether a node is alive
    beat       bigint NOT NULL DEFAULT 0,     -- grows every second
    plugins    text NOT NULL DEFAULT '[]'     -- JSON array of [name, digest, error]
) WITH (fillfactor = 50);
CREATE INDEX node_by_name ON node (name);

-- The config version. Grows with each change of an endpoint, a source, a key, a plugin or its settings.
CREATE TABLE settings_version (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    version  bigint NOT NULL
) WITH (fillfactor = 50);
INSERT INTO settings_version (version) VALUES (0);

-- Size of the store: the bodies, with an estimate for the rows around them. The size is the sum over the slots. Nodes use different
-- slots, so that no node waits for the count of another node.
CREATE TABLE usage (
    slot  bigint PRIMARY KEY,
    bytes bigint NOT NULL
) WITH (fillfactor = 50);
INSERT INTO usage SELECT slot, 0 FROM generate_series(0, 63) slot;

CREATE TABLE event (
    id           bigint PRIMARY KEY,
    accepted_at  bigint NOT NULL,             -- wall clock, ms
    source       text NOT NULL,
    caller_id    text,
    type         text NOT NULL,
    subject      text,
    time         text,                        -- as the caller wrote it
    content_type text NOT NULL,
    attributes   text,                        -- JSON array of [name, value]
    depth        bigint NOT NULL,
    cause        bigint,                      -- id of the event whose run emitted this one
    codec        bigint NOT NULL,
    data         bytea NOT NULL,
    request      text,                        -- JSON array: method, query and headers of a source's request
    body         bytea                        -- body of that request, if it differs from the data
);
ALTER TABLE event ALTER COLUMN data SET STORAGE EXTERNAL;
ALTER TABLE event ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX event_by_type ON event (type, id);
CREATE INDEX event_by_source ON event (source, id);
CREATE INDEX event_by_cause ON event (cause) WHERE cause IS NOT NULL;
CREATE INDEX event_by_caller_id ON event (caller_id, id) WHERE caller_id IS NOT NULL;
CREATE INDEX event_by_subject ON event (subject, id) WHERE subject IS NOT NULL;

-- The approximate first event id of each minute (wall clock). Filters and retention use it to turn times into ids.
CREATE TABLE minute (
    minute   bigint PRIMARY KEY,
    first_id bigint NOT NULL
);

CREATE TABLE dedup (
    source    text NOT NULL,
    caller_id text NOT NULL,
    event_id  bigint NOT NULL,
    PRIMARY KEY (source, caller_id)
);
CREATE INDEX dedup_by_event ON dedup (event_id);

-- Scheduled events, which take place later. Like the id of a run, an id here consists of the id of the cause and a number. A row is
-- deleted when its event is accepted.
CREATE TABLE scheduled (
    id           bigint PRIMARY KEY,
    due_at       bigint NOT NULL,              -- wall clock, ms
    cancelled_at bigint,                       -- wall clock, ms; NULL: it waits
    source       text NOT NULL,
    type         text NOT NULL,
    subject      text,
    content_type text NOT NULL,
    attributes   text,                         -- JSON array of [name, value]
    depth        bigint NOT NULL,
    codec        bigint NOT NULL,
    data         bytea NOT NULL
);
ALTER TABLE scheduled ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE INDEX scheduled_due ON scheduled (due_at) WHERE cancelled_at IS NULL;
CREATE INDEX scheduled_by_source ON scheduled (source) WHERE cancelled_at IS NULL;

-- Events that wait to be run. next_at: when the event is due, or when its lease ends.
CREATE TABLE event_queue (
    id      bigint PRIMARY KEY,
    round   bigint NOT NULL,
    next_at bigint NOT NULL,
    lease   bigint
) WITH (fillfactor = 70, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX event_queue_free ON event_queue (id) WHERE lease IS NULL;
CREATE INDEX event_queue_leased ON event_queue (next_at) WHERE lease IS NOT NULL;

CREATE TABLE unrouted (id bigint PRIMARY KEY);

-- Number of replays of an event.
CREATE TABLE replay (
    id     bigint PRIMARY KEY,
    rounds bigint NOT NULL
);

CREATE TABLE run (
    id          bigint PRIMARY KEY,
    round       bigint NOT NULL,
    plugin      text NOT NULL,
    version     bytea,
    endpoint    bigint,
    outcome     text,
    code        text,
    message     text,
    tries       bigint NOT NULL,
    took_us     bigint NOT NULL,
    memory_peak bigint NOT NULL,
    webhooks    bigint NOT NULL,
    emitted     bigint NOT NULL,
    log         text,                         -- JSON array of [level, message]
    log_dropped bigint NOT NULL,
    settings_revision bigint,                 -- of the plugin's settings; NULL: not executed, or not recorded (layouts before 5)
    state_read  text                          -- JSON object: the state that it read; NULL if it read none
);

-- Unfinished runs: waiting until they are due, or parked until an operator or the engine requeues them.
CREATE TABLE run_queue (
    id       bigint PRIMARY KEY,
    plugin   text NOT NULL,
    endpoint bigint,
    round    bigint NOT NULL,
    tries    bigint NOT NULL,
    state    text NOT NULL CHECK (state IN ('waiting', 'parked')),
    outcome  text,
    wants    text,
    next_at  bigint NOT NULL,
    lease    bigint,
    CHECK (state = 'waiting' OR lease IS NULL)
) WITH (fillfactor = 70, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX run_queue_free ON run_queue (plugin, next_at, id) WHERE state = 'waiting' AND lease IS NULL;
-- An event with unfinished runs delays the ordered deliveries of later events.
CREATE INDEX run_queue_waiting ON run_queue (id) WHERE state = 'waiting';
CREATE INDEX run_queue_leased ON run_queue (next_at) WHERE lease IS NOT NULL;
CREATE INDEX run_queue_parked ON run_queue (plugin, outcome) WHERE state = 'parked';
CREATE INDEX run_queue_wants ON run_queue (wants) WHERE state = 'parked' AND wants IS NOT NULL;

-- Unfinished deliveries.
CREATE TABLE live (
    id       bigint PRIMARY KEY,
    endpoint bigint NOT NULL,
    round    bigint NOT NULL,
    attempts bigint NOT NULL,
    next_at  bigint NOT NULL,
    lease    bigint,
    ordering bigint                           -- rows of one endpoint with the same number are sent one after the other, by id
) WITH (fillfactor = 70, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);
-- First attempts and retries are claimed separately, so that neither starves the other.
CREATE INDEX live_free ON live (endpoint, (attempts > 0), next_at, id) WHERE lease IS NULL AND ordering IS NULL;
CREATE INDEX live_ordered ON live (endpoint, ordering, id) WHERE ordering IS NOT NULL;
CREATE INDEX live_leased ON live (next_at) WHERE lease IS NOT NULL;

-- Finished deliveries.
CREATE TABLE delivery (
    id       bigint PRIMARY KEY,
    endpoint bigint NOT NULL,
    round    bigint NOT NULL,
    state    text NOT NULL CHECK (state IN ('delivered', 'dead', 'cancelled')),
    reason   text,
    attempts bigint NOT NULL,
    at       bigint NOT NULL,                 -- wall clock, ms
    cancel_reason text,                       -- why it was cancelled; always NULL in rows of layouts before 3
    CHECK ((state = 'dead') = (reason IS NOT NULL))
);
CREATE INDEX delivery_by_endpoint ON delivery (endpoint, id);
CREATE INDEX delivery_unhappy ON delivery (state, id) WHERE state <> 'delivered';
CREATE INDEX delivery_unhappy_by_endpoint ON delivery (endpoint, state, id) WHERE state <> 'delivered';

-- Webhook contents that plugins made. A delivery without a row here sends its event's data.
CREATE TABLE payload (
    id           bigint PRIMARY KEY,
    type         text,
    content_type text NOT NULL,
    headers      text,                        -- JSON array of [name, value]
    codec        bigint NOT NULL,
    body         bytea NOT NULL,
    run          bigint                       -- the run that made it; NULL in rows of layouts before 3
);
ALTER TABLE payload ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE TABLE attempt (
    id             bigint PRIMARY KEY,
    at             bigint NOT NULL,           -- wall clock, ms
    outcome        text NOT NULL,
    status         bigint,
    latency_us     bigint NOT NULL,
    detail         text,
    excerpt        bytea NOT NULL,
    retry_after_ms bigint,
    sent           text                       -- JSON object: the endpoint's settings that the request used, without secrets
);

-- State of plugins. The version is the token of the lease that wrote the value: no two claims share a token.
CREATE TABLE state (
    plugin  text NOT NULL,
    key     bytea NOT NULL,                   -- UTF-8, may contain zero characters
    value   bytea NOT NULL,
    version bigint NOT NULL,
    expires_at bigint,                        -- wall clock, ms; NULL: never
    PRIMARY KEY (plugin, key)
);
CREATE INDEX state_expires ON state (expires_at) WHERE expires_at IS NOT NULL;

-- Size of each plugin's state. Each connection writes to one of the plugin's slots, and the size is the sum over the slots.
-- Triggers maintain it, so that every statement that changes state also updates its size, even if an engine with an older layout
-- executes the statement.
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

CREATE TABLE endpoint (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL,
    title      text,
    url        text NOT NULL,
    events     text NOT NULL,                 -- JSON array of patterns
    conditions text NOT NULL,                 -- JSON array of [attribute, [value]]
    plugin     text,
    scheme     text NOT NULL,
    state      text NOT NULL,
    created_at bigint NOT NULL,
    deleted_at bigint,                        -- the row stays, so that histories can show its name
    policy     text NOT NULL,                 -- JSON object
    sealed     bytea,                         -- JSON object with its secrets, encrypted; NULL after deletion
    failing_since bigint,                     -- wall clock, ms; set once it has failed for a while
    single     boolean NOT NULL,              -- only one node at a time may send to it
    holder     bigint                         -- id of that node; after it has ended, another node may take its place
);
CREATE UNIQUE INDEX endpoint_name ON endpoint (name) WHERE deleted_at IS NULL;
CREATE INDEX endpoint_deleted ON endpoint (deleted_at) WHERE deleted_at IS NOT NULL;

-- Sources: inbound addresses for third parties.
CREATE TABLE source (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    title      text,
    draft      text NOT NULL,                 -- JSON object: settings that differ from its preset
    created_at bigint NOT NULL,
    sealed     bytea NOT NULL,                -- JSON object with its address and its secrets, encrypted
    requests   text NOT NULL DEFAULT '{}'     -- JSON object: counts of requests, and the last refused ones
);

CREATE TABLE plugin (
    name           text PRIMARY KEY,
    version        bytea NOT NULL,
    author_version text NOT NULL,
    description    text NOT NULL,
    patterns       text NOT NULL,             -- JSON array
    file           text NOT NULL,
    bytes          bigint NOT NULL,
    config         text NOT NULL,             -- JSON object
    state          text NOT NULL DEFAULT 'serving' -- or why it does not run
);

-- Revisions of the settings of plugins, also of plugins that do not exist yet. The newest one is in effect.
CREATE TABLE plugin_config (
    plugin   text NOT NULL,
    revision bigint NOT NULL,
    at       bigint NOT NULL,                 -- wall clock, ms
    author   text NOT NULL,                   -- name of the key
    config   text NOT NULL,                   -- JSON object
    PRIMARY KEY (plugin, revision)
);

-- Versions of plugins. The version whose bytes are in `file` serves. A row without bytes only serves to recognize an old file.
-- Engines of layout 4 know only the first four columns.
CREATE TABLE plugin_version (
    version        bytea PRIMARY KEY,         -- SHA-256 of the bytes
    plugin         text NOT NULL,
    published_at   bigint NOT NULL,           -- wall clock, ms; of its last proposal
    file           bytea,                     -- its bytes while it serves
    candidate      bigint NOT NULL DEFAULT 0, -- 1 until it serves
    served         bigint,                    -- the version of a plugin that began to serve last has the largest number
    ended_at       bigint,                    -- wall clock, ms; when it stopped serving
    author_version text NOT NULL DEFAULT '',
    description    text NOT NULL DEFAULT '',
    patterns       text NOT NULL DEFAULT '[]', -- JSON array
    file_name      text NOT NULL DEFAULT '',
    bytes          bigint NOT NULL DEFAULT 0,
    way            text NOT NULL DEFAULT 'file',
    author         text NOT NULL DEFAULT '',  -- name of the key, or the folder
    kept           bytea                      -- its bytes while it does not serve
);
ALTER TABLE plugin_version ALTER COLUMN file SET STORAGE EXTERNAL;
ALTER TABLE plugin_version ALTER COLUMN kept SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX plugin_version_serves ON plugin_version (plugin) WHERE file IS NOT NULL;
CREATE INDEX plugin_version_by_age ON plugin_version (plugin, published_at);

CREATE TABLE api_key (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    role       text NOT NULL,
    hash       bytea NOT NULL UNIQUE,
    created_at bigint NOT NULL,
    expires_at bigint,                        -- wall clock, ms
    last_used_at bigint,                      -- wall clock, ms; exact to a minute
    ending       text                         -- its last characters; NULL in rows of layouts before 3
);

-- Audit trail. An entry is written before its change and completed with the answer's status.
CREATE TABLE audit (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     bigint NOT NULL,                   -- wall clock, ms
    key    text NOT NULL,                     -- the name of the key
    action text NOT NULL,
    target text,
    status bigint,                            -- NULL: under way, or the engine ended during the change
    members text                              -- JSON array with the names of the changed members
);
CREATE INDEX audit_by_key ON audit (key, id);
CREATE INDEX audit_by_action ON audit (action, id);

-- Jobs: work over many rows, done in batches.
CREATE TABLE job (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind        text NOT NULL,
    filter      text NOT NULL,                -- JSON object
    cursor      bigint NOT NULL,              -- ids below it are processed
    done        bigint NOT NULL,
    failed      bigint NOT NULL,
    total       bigint,
    state       text NOT NULL CHECK (state IN ('running', 'done', 'cancelled')),
    created_at  bigint NOT NULL,              -- wall clock, ms
    finished_at bigint,
    CHECK ((state = 'running') = (finished_at IS NULL))
);
CREATE INDEX job_running ON job (id) WHERE state = 'running';

-- Comparisons of plugin versions.
CREATE TABLE comparison (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    plugin      text NOT NULL,
    serving     bytea NOT NULL,
    candidate   bytea NOT NULL,
    request     text NOT NULL,                 -- JSON object
    state       text NOT NULL CHECK (state IN ('running', 'done', 'cancelled')),
    cursor      bigint,                       -- runs from this id on were compared
    report      text NOT NULL,                 -- JSON object
    problem     text,                          -- why it ended early
    created_at  bigint NOT NULL,              -- wall clock, ms
    finished_at bigint,
    CHECK ((state = 'running') = (finished_at IS NULL))
);

-- Counts over time. A row is a sheet. It holds either the cells of one hour, one for each minute, or the cells of one UTC day, one
-- for each hour.
CREATE TABLE stats (
    about text COLLATE "C" NOT NULL,
    cell  bigint NOT NULL,                  -- length of a cell, ms
    sheet bigint NOT NULL,                  -- start of the sheet, wall clock, ms
    cells text NOT NULL,                    -- JSON object: counts by the number of the cell
    PRIMARY KEY (about, cell, sheet)
);
CREATE INDEX stats_by_age ON stats (cell, sheet);
