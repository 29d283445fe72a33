-- From layout 4: what a run read beside its event.

ALTER TABLE run ADD COLUMN settings_revision bigint;
ALTER TABLE run ADD COLUMN state_read text;

-- Settings from before revisions were numbered become revision 1, so that recorded runs can name them.
INSERT INTO plugin_config (plugin, revision, at, author, config)
    SELECT name, 1, floor(extract(epoch FROM now()))::bigint * 1000, 'upgrade', config FROM plugin
    WHERE config <> '{}' AND NOT EXISTS (SELECT 1 FROM plugin_config c WHERE c.plugin = name);
