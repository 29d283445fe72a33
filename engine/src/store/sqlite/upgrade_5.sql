-- From layout 4: which run made a webhook, how an attempt was sent, why a delivery is cancelled, and the end of each key.

ALTER TABLE payload ADD COLUMN run INTEGER;
ALTER TABLE attempt ADD COLUMN sent TEXT;
ALTER TABLE delivery ADD COLUMN cancel_reason TEXT;
ALTER TABLE api_key ADD COLUMN ending TEXT;
