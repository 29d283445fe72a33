-- From layout 4 to layout 5: adds the run that made a webhook, the settings with which an attempt was sent, the reason why a
-- delivery was cancelled, and the last characters of each key.

ALTER TABLE payload ADD COLUMN run INTEGER;
ALTER TABLE attempt ADD COLUMN sent TEXT;
ALTER TABLE delivery ADD COLUMN cancel_reason TEXT;
ALTER TABLE api_key ADD COLUMN ending TEXT;
