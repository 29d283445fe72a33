"""Tells schemathesis the rules that an OpenAPI document cannot express."""

import schemathesis
from schemathesis.core.parameters import ParameterLocation

# The beginnings of the texts of refusals whose reason no schema can express: a schema describes only the form of a value.
BEYOND_A_SCHEMA = (
    "cursor is ",  # the cursor has to come from this store
    "secret: ",  # the secret has to fit the endpoint's signature
    "token_header: needs the signature",  # this header belongs to the signature `token`
    "client_certificate",  # it has to be a certificate with its key
    "where: narrows",  # when an endpoint that subscribes to nothing is changed
    "breaker.wait_max: must not be shorter",
    "is in the past",  # a time in the future
    "is more than a hundred years away",
    '" carries the endpoint\'s signature',
    "is set by the engine or the connection",  # in upper or lower case
    "is given twice; header names",
    "url: ",  # it has to be a URL that the engine may send to
    "belongs to preset",  # of a source
    "preset: Twilio signs",  # the engine has to know its own address
    "header: ",  # the name of a header: a schema of all rules would be too long
    "signature: ",  # of a source: a place in a request, not together with a header
    "challenge: ",  # a place in a request, and a member of the answer
    "is more than limits.body_bytes_max",  # the engine's settings limit it
    "since: only deliveries that are",  # a time, but not for every state
    "until: only deliveries that are",
    "headers: ",
    "username: ",
    "prefix: ",
    "list_key: ",
    "template: ",  # the signed content, with places in the request
    "timestamp: ",
    "tolerance: has no meaning",
    "type_from: ",  # a place in a request
    "type_prefix: ",
    "dedupe: ",
    "attributes: ",
    "content_types: ",
    "allow: ",  # a network
    "answer_content_type: ",
    "answer_body: ",  # its length in bytes
)


def is_wrong(case, location):
    """Returns whether schemathesis made this part invalid on purpose."""
    component = case.meta and case.meta.components.get(location)
    return bool(component and component.mode.is_negative)


@schemathesis.hook
def map_case(context, case):
    """Changes a generated request to fit rules that no schema can express, such as a header that depends on the content type."""
    if case.query and not is_wrong(case, ParameterLocation.QUERY):
        # A valid cursor comes only from an earlier page.
        case.query.pop("cursor", None)
    is_accept = case.operation.definition.raw.get("operationId") == "accept_events"
    if not is_accept or case.headers is None:
        return case
    if is_wrong(case, ParameterLocation.HEADER):
        # Without a type the engine would not read the other headers of binary mode.
        if any(name.lower().startswith("ce-") for name in case.headers):
            case.headers.setdefault("ce-type", "a.b")
        return case
    if case.media_type == "application/octet-stream":
        case.headers.setdefault("ce-type", "a.b")
    else:
        for name in [name for name in case.headers if name.lower().startswith("ce-")]:
            del case.headers[name]
    # An idempotency key stands for a single event.
    if isinstance(case.body, list):
        case.headers.pop("idempotency-key", None)
    return case


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Drops reports that are no failures: of refusals that no schema can express, and of invalid headers that the engine ignores."""
    if type(failure).__name__ == "AcceptedNegativeData":
        if "in header - object with unexpected properties" in failure.message:
            return False
        # With a CloudEvents content type the event is in the body, and the headers of binary mode are not read.
        if "parameter `ce-" in failure.message and (case.media_type or "").startswith("application/cloudevents"):
            return False
    if type(failure).__name__ != "RejectedPositiveData" or response.status_code not in (400, 422):
        return True
    detail = response.json().get("detail", "")
    return not any(text in detail for text in BEYOND_A_SCHEMA)
