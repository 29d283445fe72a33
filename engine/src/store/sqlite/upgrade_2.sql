-- From layout 1 to layout 2. Before these statements, the engine has already moved the secrets and headers of endpoints into
-- `sealed`, and the other settings of their deliveries into `policy` (upgrade.rs).
ALTER TABLE endpoint DROP COLUMN secrets;
ALTER TABLE endpoint DROP COLUMN timeout_ms;
ALTER TABLE endpoint DROP COLUMN headers;
ALTER TABLE endpoint DROP COLUMN schedule;
ALTER TABLE live ADD COLUMN ordering INTEGER;
DROP INDEX live_free;
CREATE INDEX live_free ON live (endpoint, attempts > 0, next_at) WHERE lease IS NULL AND ordering IS NULL;
CREATE INDEX live_ordered ON live (endpoint, ordering, id) WHERE ordering IS NOT NULL;
CREATE INDEX run_queue_waiting ON run_queue (id) WHERE state = 'waiting';
ALTER TABLE api_key ADD COLUMN expires_at INTEGER;
ALTER TABLE api_key ADD COLUMN last_used_at INTEGER;
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
