"""Has Python's libraries sign webhooks as their senders do. Reads one JSON object a line: which library, the key, the address, the body
and the time of signing. Answers each with a line: the headers."""

import json
import sys
from datetime import datetime, timezone
from urllib.parse import parse_qsl

import standardwebhooks
from slack_sdk.signature import SignatureVerifier
from twilio.request_validator import RequestValidator


def standard(key, asked):
    at = datetime.fromtimestamp(asked["at"], timezone.utc)
    signature = standardwebhooks.Webhook(key).sign(asked["id"], at, asked["body"])
    return {"webhook-id": asked["id"], "webhook-timestamp": str(asked["at"]), "webhook-signature": signature}


def slack(key, asked):
    signature = SignatureVerifier(key).generate_signature(timestamp=str(asked["at"]), body=asked["body"])
    return {"x-slack-request-timestamp": str(asked["at"]), "x-slack-signature": signature}


def twilio(key, asked):
    fields = dict(parse_qsl(asked["body"], keep_blank_values=True))
    return {"x-twilio-signature": RequestValidator(key).compute_signature(asked["url"], fields)}


LIBRARIES = {"standardwebhooks": standard, "slack-sdk": slack, "twilio": twilio}

for line in sys.stdin:
    asked = json.loads(line)
    print(json.dumps(LIBRARIES[asked["library"]](asked["key"], asked)))
