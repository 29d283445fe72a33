// A plugin in JavaScript that reports each order over a threshold once. README.md says how to build it.
import { writeWith } from "innesco:plugin/log@1.1.0";
import { get as setting } from "innesco:plugin/config@1.1.0";
import { get as read, setFor } from "innesco:plugin/state@1.1.0";

const DAY = 86_400_000n;
const text = new TextDecoder();
const bytes = new TextEncoder();

/** Throwing a failure ends the run as `failed`. If the failure is retryable, the engine tries the run again. */
function failure(code, message, retryable = false) {
  return { code, message, retryable };
}

function order(event) {
  let order;
  try {
    order = JSON.parse(text.decode(event.data));
  } catch (error) {
    throw failure("bad-payload", `the data of this ${event.type} event is not JSON: ${error.message}`);
  }
  if (typeof order?.total !== "number") throw failure("bad-payload", "the order has no total");
  return order;
}

export const handler = {
  describe() {
    const threshold = { name: "threshold", type: "number", default: "1000", description: "An order over this total is big" };
    return {
      name: "js-orders",
      version: "0.1.0",
      description: "Reports big orders, once each (JavaScript)",
      on: ["order.created"],
      attributes: [["setting", JSON.stringify(threshold)]],
    };
  },

  handle(event) {
    const { id, total } = order(event);
    const threshold = Number(setting("threshold"));
    const key = `order/${id}`;
    const outcome = { webhooks: [], events: [], attributes: [] };
    if (total <= threshold || read(key) !== undefined) return outcome;
    // State, webhooks and events of a run take effect together, or not at all.
    setFor(key, new Uint8Array(), DAY);
    writeWith("info", "big order", [["order", String(id)], ["total", String(total)]]);
    const body = bytes.encode(JSON.stringify({ text: `Order ${id} over ${threshold}` }));
    outcome.webhooks.push({ to: "receiver", contentType: "application/json", body, headers: [], attributes: [] });
    return outcome;
  },
};
