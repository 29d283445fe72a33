"""A plugin in Python that reports each order over a threshold once. README.md says how to build it."""

import json

from componentize_py_types import Err
from wit_world.imports import config, log, state, types

DAY = 86_400_000


def failure(code: str, message: str, retryable: bool = False) -> Err:
    """Raising this error ends the run as `failed`. If it is retryable, the engine tries the run again."""
    return Err(types.Failure(code=code, message=message, retryable=retryable))


def order(event: types.Event) -> dict:
    try:
        order = json.loads(event.data)
    except ValueError as error:
        raise failure("bad-payload", f"the data of this {event.type} event is not JSON: {error}")
    if not isinstance(order, dict) or not isinstance(order.get("total"), (int, float)):
        raise failure("bad-payload", "the order has no total")
    return order


class Handler:
    def describe(self) -> types.Manifest:
        threshold = {"name": "threshold", "type": "number", "default": "1000", "description": "An order over this total is big"}
        return types.Manifest(
            name="py-orders",
            version="0.1.0",
            description="Reports big orders, once each (Python)",
            on=["order.created"],
            attributes=[("setting", json.dumps(threshold))],
        )

    def handle(self, event: types.Event) -> types.Outcome:
        found = order(event)
        id, total = found.get("id"), found["total"]
        threshold = float(config.get("threshold"))
        key = f"order/{id}"
        if total <= threshold or state.get(key) is not None:
            return types.Outcome(webhooks=[], events=[], attributes=[])
        # State, webhooks and events of a run take effect together, or not at all.
        state.set_for(key, b"", DAY)
        log.write_with("info", "big order", [("order", str(id)), ("total", str(total))])
        body = json.dumps({"text": f"Order {id} over {threshold:g}"}).encode()
        webhook = types.Webhook(
            to="receiver", type=None, content_type="application/json", body=body, headers=[], attributes=[]
        )
        return types.Outcome(webhooks=[webhook], events=[], attributes=[])
