-- From layout 2 to layout 3: adds the run that made a webhook, the settings with which an attempt was sent, the reason why a
-- delivery was cancelled, and the last characters of each key. Tables are changed in the order in which transactions of older
-- engines lock them.

ALTER TABLE payload ADD COLUMN run bigint;
ALTER TABLE delivery ADD COLUMN cancel_reason text;
ALTER TABLE attempt ADD COLUMN sent text;
ALTER TABLE api_key ADD COLUMN ending text;
