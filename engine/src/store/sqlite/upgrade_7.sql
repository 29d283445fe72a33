-- From layout 6: what a run read beside its event.

ALTER TABLE run ADD COLUMN settings_revision INTEGER;
ALTER TABLE run ADD COLUMN state_read TEXT;

-- Settings from before revisions were numbered become revision 1, so that recorded runs can name them.
INSERT INTO plugin_config (plugin, revision, at, author, config)
    SELECT name, 1, unixepoch() * 1000, 'upgrade', config FROM plugin
    WHERE config <> '{}' AND NOT EXISTS (SELECT 1 FROM plugin_config c WHERE c.plugin = name);
