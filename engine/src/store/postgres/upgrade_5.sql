-- From layout 4 to layout 5. First, what a run read in addition to its event.

ALTER TABLE run ADD COLUMN settings_revision bigint;
ALTER TABLE run ADD COLUMN state_read text;

-- Settings that were stored before revisions had numbers become revision 1, so that recorded runs can name them.
INSERT INTO plugin_config (plugin, revision, at, author, config)
    SELECT name, 1, floor(extract(epoch FROM now()))::bigint * 1000, 'upgrade', config FROM plugin
    WHERE config <> '{}' AND NOT EXISTS (SELECT 1 FROM plugin_config c WHERE c.plugin = name);

-- Versions of plugins with their manifest, and the bytes of the versions that do not serve. If an engine of layout 4 replaces a
-- version, it deletes the bytes of that version. The column `state` says whether a plugin runs. An engine of layout 4 ignores it.

ALTER TABLE plugin ADD COLUMN state text NOT NULL DEFAULT 'serving';

ALTER TABLE plugin_version
    ADD COLUMN candidate bigint NOT NULL DEFAULT 0,
    ADD COLUMN served bigint,
    ADD COLUMN ended_at bigint,
    ADD COLUMN author_version text NOT NULL DEFAULT '',
    ADD COLUMN description text NOT NULL DEFAULT '',
    ADD COLUMN patterns text NOT NULL DEFAULT '[]',
    ADD COLUMN file_name text NOT NULL DEFAULT '',
    ADD COLUMN bytes bigint NOT NULL DEFAULT 0,
    ADD COLUMN way text NOT NULL DEFAULT 'file',
    ADD COLUMN author text NOT NULL DEFAULT '',
    ADD COLUMN kept bytea;
ALTER TABLE plugin_version ALTER COLUMN kept SET STORAGE EXTERNAL;
UPDATE plugin_version v SET served = 1, author_version = p.author_version, description = p.description, patterns = p.patterns,
        file_name = p.file, bytes = p.bytes
    FROM plugin p WHERE p.name = v.plugin AND v.file IS NOT NULL;

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

-- Counts of the requests to each source. Counting begins with this upgrade.
ALTER TABLE source ADD COLUMN requests text NOT NULL DEFAULT '{}';

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

-- State with a time to live.

ALTER TABLE state ADD COLUMN expires_at bigint;
CREATE INDEX state_expires ON state (expires_at) WHERE expires_at IS NOT NULL;

-- Indexes for the search, and for the dead deliveries of one endpoint.

CREATE INDEX event_by_caller_id ON event (caller_id, id) WHERE caller_id IS NOT NULL;
CREATE INDEX event_by_subject ON event (subject, id) WHERE subject IS NOT NULL;
CREATE INDEX delivery_unhappy_by_endpoint ON delivery (endpoint, state, id) WHERE state <> 'delivered';

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
