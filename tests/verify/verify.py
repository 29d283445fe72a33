"""Asks Python's libraries about webhooks. Reads one JSON object a line: which library, the key, the headers (in lower case) and the
body (base64). Answers each with a line: true, or false when the library does not believe it."""

import base64
import json
import sys

import standardwebhooks
import stripe
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey


def standard(key, headers, body):
    try:
        standardwebhooks.Webhook(key).verify(body, headers)
    except standardwebhooks.WebhookVerificationError:
        return False
    return True


def ed25519(key, headers, body):
    """PyNaCl knows the signature, not the header: the signed content is put together here, as Standard Webhooks 1.0 says."""
    verify_key = VerifyKey(base64.b64decode(key.removeprefix("whpk_")))
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    for entry in headers["webhook-signature"].split(" "):
        version, signature = entry.split(",")
        if version != "v1a":
            continue
        try:
            verify_key.verify(content, base64.b64decode(signature))
            return True
        except BadSignatureError:
            pass
    return False


def of_stripe(key, headers, body):
    try:
        stripe.WebhookSignature.verify_header(body.decode(), headers["stripe-signature"], key, tolerance=300)
    except stripe.SignatureVerificationError:
        return False
    return True


LIBRARIES = {"standardwebhooks": standard, "pynacl": ed25519, "stripe": of_stripe}

for line in sys.stdin:
    asked = json.loads(line)
    believed = LIBRARIES[asked["library"]](asked["key"], asked["headers"], base64.b64decode(asked["body"]))
    print(json.dumps(believed))
