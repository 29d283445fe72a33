"""Signs and verifies webhooks with Python's libraries. Reads one JSON object per line and answers each with one line: {"value": …}, or
{"error": …} if the library raised an exception.

{"do": "sign", "library", "key", "id", "at", "body", "url"}: the headers of a webhook.
{"do": "verify", "library", "key", "headers", "body" (base64), "url"}: whether the library accepts the request. Names are in lower case.
{"do": "challenge", "library", "token", "query"}: what the library answers to the verification request of a hub; null if it refuses.
"""

import base64
import json
import logging
import sys
from datetime import datetime, timezone
from io import BytesIO
from urllib.parse import parse_qsl

import pywa.utils
import standardwebhooks
import stravalib
import stripe
from buildbot_gitea.webhook import GiteaHandler
from gidgetlab import ValidationFailure
from gidgetlab.sansio import Event as GitlabEvent
from mailgun.security import SecurityGuard as MailgunGuard
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey
from slack_sdk.signature import SignatureVerifier
from svix.webhooks import Webhook as Svix
from svix.webhooks import WebhookVerificationError as SvixError
from twilio.request_validator import RequestValidator


def sign_standard(key, asked):
    at = datetime.fromtimestamp(asked["at"], timezone.utc)
    signature = standardwebhooks.Webhook(key).sign(asked["id"], at, asked["body"])
    return {"webhook-id": asked["id"], "webhook-timestamp": str(asked["at"]), "webhook-signature": signature}


def sign_slack(key, asked):
    signature = SignatureVerifier(key).generate_signature(timestamp=str(asked["at"]), body=asked["body"])
    return {"x-slack-request-timestamp": str(asked["at"]), "x-slack-signature": signature}


def fields(body):
    return dict(parse_qsl(body, keep_blank_values=True))


def sign_twilio(key, asked):
    return {"x-twilio-signature": RequestValidator(key).compute_signature(asked["url"], fields(asked["body"]))}


def verify_standard(key, headers, body, url):
    try:
        standardwebhooks.Webhook(key).verify(body, headers)
    except standardwebhooks.WebhookVerificationError:
        return False
    return True


def verify_svix(key, headers, body, url):
    try:
        Svix(key).verify(body, headers)
    except SvixError:
        return False
    return True


def verify_ed25519(key, headers, body, url):
    """Verifies with PyNaCl, which knows no headers. So the signed content is built here as Standard Webhooks 1.0 defines it."""
    verify_key = VerifyKey(base64.b64decode(key.removeprefix("whpk_")))
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    for entry in headers["webhook-signature"].split(" "):
        version, _, signature = entry.partition(",")
        if version != "v1a":
            continue
        try:
            verify_key.verify(content, base64.b64decode(signature))
            return True
        except (BadSignatureError, ValueError):
            pass
    return False


def verify_stripe(key, headers, body, url):
    try:
        stripe.WebhookSignature.verify_header(body.decode(), headers["stripe-signature"], key, tolerance=300)
    except stripe.SignatureVerificationError:
        return False
    return True


def verify_slack(key, headers, body, url):
    return SignatureVerifier(key).is_valid(body, headers["x-slack-request-timestamp"], headers["x-slack-signature"])


def verify_twilio(key, headers, body, url):
    return RequestValidator(key).validate(url, fields(body.decode()), headers["x-twilio-signature"])


def verify_gitlab(key, headers, body, url):
    try:
        GitlabEvent.from_http(headers, body, secret=key)
    except ValidationFailure:
        return False
    return True


class Request:
    """The part of a request that Buildbot's handler reads."""

    def __init__(self, headers, body):
        self.headers, self.content, self.args = headers, BytesIO(body), {}

    def getHeader(self, name):
        return self.headers.get(name.lower())


def verify_gitea(key, headers, body, url):
    ended = []
    GiteaHandler(None, {"secret": key}).getChanges(Request(headers, body)).addBoth(ended.append)
    failure = getattr(ended[0], "value", None)
    if failure and "Invalid secret" not in str(failure) and "Error loading JSON" not in str(failure):
        raise failure
    return failure is None


def verify_meta(key, headers, body, url):
    return pywa.utils.webhook_updates_validator(key, body, headers["x-hub-signature-256"])


def verify_mailgun(key, headers, body, url):
    try:
        is_form = headers["content-type"] == "application/x-www-form-urlencoded"
        part = dict(parse_qsl(body.decode())) if is_form else json.loads(body)["signature"]
        return MailgunGuard.verify_webhook(key, part["token"], part["timestamp"], part["signature"])
    except (KeyError, TypeError, ValueError):
        return False


def challenge_of_meta(token, query):
    answer, status = pywa.WhatsApp(server=None, verify_token=token, token="none", phone_id="1").webhook_challenge_handler(
        query.get("hub.verify_token"), query.get("hub.challenge")
    )
    return answer if status == 200 else None


def challenge_of_strava(token, query):
    try:
        return json.dumps(stravalib.Client().handle_subscription_callback(query, token))
    except (AssertionError, ValueError):
        return None


SIGN = {"standardwebhooks": sign_standard, "slack-sdk": sign_slack, "twilio": sign_twilio}
VERIFY = {
    "standardwebhooks": verify_standard,
    "svix": verify_svix,
    "pynacl": verify_ed25519,
    "stripe": verify_stripe,
    "slack-sdk": verify_slack,
    "twilio": verify_twilio,
    "gidgetlab": verify_gitlab,
    "buildbot-gitea": verify_gitea,
    "pywa": verify_meta,
    "mailgun": verify_mailgun,
}
CHALLENGE = {"pywa": challenge_of_meta, "stravalib": challenge_of_strava}


def answer(asked):
    library = asked["library"]
    match asked["do"]:
        case "sign":
            return SIGN[library](asked["key"], asked)
        case "verify":
            return VERIFY[library](asked["key"], asked["headers"], base64.b64decode(asked["body"]), asked.get("url"))
        case "challenge":
            return CHALLENGE[library](asked["token"], asked["query"])


logging.disable()  # the libraries log every refusal
for line in sys.stdin:
    try:
        told = {"value": answer(json.loads(line))}
    except Exception as error:
        told = {"error": repr(error)}
    print(json.dumps(told), flush=True)
