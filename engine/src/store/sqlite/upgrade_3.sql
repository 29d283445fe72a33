-- From layout 2 to layout 3: adds sources, and the requests of their events.
ALTER TABLE event ADD COLUMN request TEXT;
ALTER TABLE event ADD COLUMN body BLOB;
-- Addresses for third parties.
CREATE TABLE source (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL UNIQUE,
    title      TEXT,
    draft      TEXT NOT NULL,                  -- JSON object: settings that differ from its preset
    created_at INTEGER NOT NULL,
    sealed     BLOB NOT NULL                   -- JSON object with its address and its secrets, encrypted
) STRICT;
