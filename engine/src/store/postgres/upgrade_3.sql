-- From layout 2: which run made a webhook, how an attempt was sent, why a delivery is cancelled, and the end of each key. Tables are
-- changed in the order in which transactions of older engines lock them.

ALTER TABLE payload ADD COLUMN run bigint;
ALTER TABLE delivery ADD COLUMN cancel_reason text;
ALTER TABLE attempt ADD COLUMN sent text;
ALTER TABLE api_key ADD COLUMN ending text;
