// Sends every example payload of GitHub's own collection through the engine, also through slack-notify, to an endpoint for each
// signature that a library can verify. Then sends all payloads again while the secrets are being rotated. The libraries are
// independent of the engine. They must accept each webhook under the valid keys, and refuse it under another key and after a change
// of one signed byte. Usage: node verify.mjs INNESCO_BINARY PLUGIN_WASM
import { spawn } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Webhooks as GithubWebhooks } from "@octokit/webhooks";
import { verify as verifyGithub } from "@octokit/webhooks-methods";
import "@shopify/shopify-api/adapters/node"; // the library runs in several environments; this chooses Node
import { ApiVersion, LogSeverity, shopifyApi } from "@shopify/shopify-api";
import { createSHA256HMAC } from "@shopify/shopify-api/runtime";
import { HTTP } from "cloudevents";
import { Webhook } from "standardwebhooks";
import Stripe from "stripe";
import { Webhook as Svix } from "svix";
import { startPython } from "./python.mjs";

const [binary, plugin] = process.argv.slice(2);
const examples = createRequire(import.meta.url)("@octokit/webhooks-examples");
const adminKey = "verify-only-6b0f6a1e3c9d4857a2e1f0b7c8d95a34";
const home = mkdtempSync(join(tmpdir(), "innesco-verify-"));
mkdirSync(join(home, "plugins"));
copyFileSync(plugin, join(home, "plugins", "slack-notify.wasm"));

// The endpoints. Each has the libraries that verify its webhooks, whether two keys can sign at once, and the headers that are
// signed or hold a signature.
const endpoints = [
  {
    name: "v1", body: { signature: "v1" }, several: true, proof: ["webhook-id", "webhook-timestamp", "webhook-signature"],
    libraries: ["npm standardwebhooks", "PyPI standardwebhooks", "npm svix", "PyPI svix"],
  },
  {
    name: "v1a", body: { signature: "v1a" }, several: true, proof: ["webhook-id", "webhook-timestamp", "webhook-signature"],
    libraries: ["PyPI pynacl"],
  },
  {
    name: "github", body: { signature: "github", envelope: "data" }, several: false, proof: ["x-hub-signature-256"],
    libraries: ["npm @octokit/webhooks-methods", "npm @octokit/webhooks"],
  },
  {
    name: "stripe", body: { signature: "stripe", envelope: "data" }, several: true, proof: ["stripe-signature"],
    libraries: ["npm stripe", "PyPI stripe"],
  },
  {
    name: "shopify", body: { signature: "shopify", envelope: "data" }, several: false, proof: ["x-shopify-hmac-sha256"],
    libraries: ["npm @shopify/shopify-api"],
  },
  {
    // WooCommerce publishes no library. Its signature is Shopify's under another header, so Shopify's library verifies it.
    name: "woocommerce", body: { signature: "woocommerce", envelope: "data" }, several: false, proof: ["x-wc-webhook-signature"],
    libraries: ["npm @shopify/shopify-api/runtime"],
  },
];

const received = [];
let rotating = false;
const receiver = createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    received.push({ path: request.url, headers: request.headers, body: Buffer.concat(parts), rotating });
    response.end();
  });
});

const start = () => {
  const engine = spawn(
    binary,
    ["serve", "--listen", "127.0.0.1:0", "--data", join(home, "data"), "--plugins", join(home, "plugins"), "--allow-net", "127.0.0.0/8"],
    { env: { ...process.env, INNESCO_ADMIN_KEY: adminKey }, stdio: ["ignore", "pipe", "inherit"] },
  );
  const url = new Promise((done, failed) => {
    let text = "";
    engine.stdout.on("data", (chunk) => {
      text += chunk;
      const found = /^engine\s+(\S+)/m.exec(text);
      if (found) done(found[1]);
    });
    engine.on("exit", (code) => failed(new Error(`the engine ended with ${code}`)));
  });
  return { engine, url };
};

let failures = 0;
const check = (fact, text) => {
  if (fact) return;
  failures += 1;
  console.error(`FAILED: ${text}`);
};

const until = async (what, condition) => {
  const deadline = Date.now() + 60_000;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`not within a minute: ${what}`);
    await new Promise((done) => setTimeout(done, 100));
  }
};

// For each library, a function that returns whether the library accepts a webhook. If the library throws, it refuses the webhook.
const stripe = new Stripe("sk_test_x");
const inProcess = {
  "npm standardwebhooks": async (key, one) => new Webhook(key).verify(one.body.toString("utf8"), one.headers),
  "npm svix": async (key, one) => new Svix(key).verify(one.body.toString("utf8"), one.headers),
  "npm stripe": async (key, one) => stripe.webhooks.constructEvent(one.body, one.headers["stripe-signature"], key),
  "npm @shopify/shopify-api": async (key, one) => {
    // Shopify's library checks the signature first. After that it checks headers that only Shopify can send.
    const { webhooks } = shopifyApi({
      apiKey: "none", apiSecretKey: key, apiVersion: ApiVersion.October26, hostName: "localhost", isEmbeddedApp: false,
      logger: { level: LogSeverity.Error },
    });
    const rawRequest = { method: "POST", url: one.path, headers: one.headers };
    const { valid, reason } = await webhooks.validate({ rawBody: one.body.toString("utf8"), rawRequest, rawResponse: {} });
    return valid || reason === "missing_headers";
  },
  "npm @shopify/shopify-api/runtime": async (key, one) =>
    (await createSHA256HMAC(key, one.body.toString("utf8"))) === one.headers["x-wc-webhook-signature"],
  "npm @octokit/webhooks-methods": (key, one) => verifyGithub(key, one.body.toString("utf8"), one.headers["x-hub-signature-256"]),
  "npm @octokit/webhooks": (secret, one) => new GithubWebhooks({ secret }).verify(one.body.toString("utf8"), one.headers["x-hub-signature-256"]),
};
const inPython = (library) => (key, one) =>
  python.ask({ do: "verify", library: library.slice(5), key, headers: one.headers, body: one.body.toString("base64") });
const accepts = async ({ library, key, one }) => {
  try { return (await (inProcess[library] ?? inPython(library))(key, one)) !== false; } catch { return false; }
};

// Changes one byte to a digit, so that a header stays a valid header.
const changed = (text, place) => text.slice(0, place) + (text[place] === "0" ? "1" : "0") + text.slice(place + 1);
// Returns copies of a webhook with one changed byte: in the body, or at either end of a header that is signed or holds a signature.
const tampered = (one, proof) => {
  const body = Buffer.from(one.body);
  body[1] ^= 1; // the quote before the first name
  const headers = proof.flatMap((name) =>
    [0, one.headers[name].length - 1].map((place) => ({ ...one.headers, [name]: changed(one.headers[name], place) })));
  return [{ ...one, body }, ...headers.map((headers) => ({ ...one, headers }))];
};

let [engine, python] = [];
try {
  python = startPython();
  await new Promise((done) => receiver.listen(0, "127.0.0.1", done));
  const sink = `http://127.0.0.1:${receiver.address().port}`;
  const started = start();
  engine = started.engine;
  const url = await started.url;
  const call = async (method, path, body) => {
    const answer = await fetch(url + path, {
      method,
      headers: { authorization: `Bearer ${adminKey}`, "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const json = await answer.json();
    if (!answer.ok) throw new Error(`${method} ${path}: ${JSON.stringify(json)}`);
    return json;
  };
  // The key that a receiver verifies with.
  const keyOf = (endpoint) => endpoint.public_key ?? endpoint.secret;

  const slack = await call("POST", "/v1/endpoints", { name: "slack", url: `${sink}/slack` });
  const made = ({ name, body }) => ({ name, url: `${sink}/${name}`, events: ["github.*"], ...body });
  for (const endpoint of endpoints) endpoint.old = keyOf(await call("POST", "/v1/endpoints", made(endpoint)));
  await call("POST", "/v1/endpoints", made({ name: "cloudevents", body: { envelope: "cloudevents" } }));

  const events = new Map();
  const forPlugin = [];
  const send = async (name, data) => {
    const { event, id } = await call("POST", "/v1/events", { type: `github.${name}`, source: "github", data, action: data.action });
    events.set(id, { name, data });
    if (name === "push" || name === "issues") forPlugin.push(event);
  };
  const all = [...endpoints.map(({ name }) => name), "cloudevents"];
  const arrived = () => until("every webhook arrives", () => all.every((name) => received.filter((one) => one.path === `/${name}`).length >= events.size));

  for (const { name, examples: payloads } of examples) for (const payload of payloads) await send(name, payload);
  await arrived();
  for (const endpoint of endpoints) {
    const rotation = endpoint.several ? { grace: "1h" } : {};
    endpoint.new = keyOf(await call("POST", `/v1/endpoints/${endpoint.name}/rotate-secret`, rotation));
  }
  rotating = true;
  for (const { name, examples: payloads } of examples.slice(0, 20)) await send(name, payloads[0]);
  await arrived();

  const runs = () => Promise.all(forPlugin.map(async (event) => (await call("GET", `/v1/events/${event}`)).runs[0]));
  await until("every run of slack-notify is done", async () => (await runs()).every((run) => run?.state === "done"));
  (await runs()).forEach((run, place) => check(run.outcome === "ok", `${forPlugin[place]}: ${JSON.stringify(run)}`));
  await until("every Slack message arrives", () => received.some((one) => one.path === "/slack"));

  const cases = [];
  for (const one of received) {
    const endpoint = endpoints.find(({ name }) => one.path === `/${name}`);
    if (one.path === "/slack") cases.push({ library: "npm standardwebhooks", key: slack.secret, one, expected: true });
    for (const library of endpoint?.libraries ?? []) {
      cases.push({ library, key: endpoint.new, one, expected: one.rotating });
      cases.push({ library, key: endpoint.old, one, expected: !one.rotating || endpoint.several });
    }
  }
  for (const endpoint of endpoints) {
    const some = received.filter((one) => one.path === `/${endpoint.name}` && !one.rotating).slice(0, 20);
    const others = some.flatMap((one) => tampered(one, endpoint.proof));
    for (const library of endpoint.libraries) cases.push(...others.map((one) => ({ library, key: endpoint.old, one, expected: false, tampered: true })));
  }
  for (const each of cases) each.accepted = await accepts(each);
  for (const library of endpoints.flatMap(({ libraries }) => libraries)) {
    const asked = cases.filter((each) => each.library === library);
    const wrong = asked.filter(({ accepted, expected }) => accepted !== expected);
    wrong.forEach(({ one, expected, tampered }) =>
      check(false, `${library}: ${one.path} ${one.headers["webhook-id"]}${tampered ? ", changed," : ""} should be ${expected ? "accepted" : "refused"}`));
    const whole = asked.filter(({ tampered }) => !tampered);
    const count = (expected, duringRotation) => whole.filter((each) => each.expected === expected && each.one.rotating === duringRotation).length;
    console.log(
      `${wrong.length === 0 ? "ok    " : "FAILED"} ${library.padEnd(32)} ${asked.length} times asked: ` +
        `${count(true, false)} accepted, ${count(false, false)} refused; while rotating ${count(true, true)} accepted, ${count(false, true)} refused; ` +
        `${asked.length - whole.length} changed ones refused`,
    );
  }

  let same = 0;
  const parsed = received.filter((one) => one.path === "/cloudevents");
  for (const one of parsed) {
    const event = HTTP.toEvent({ headers: one.headers, body: one.body.toString("utf8") });
    const { name, data } = events.get(event.id) ?? {};
    const right = event.validate() && event.type === `github.${name}` && event.source === "github" && event.action === data.action;
    if (right && JSON.stringify(event.data) === JSON.stringify(data)) same += 1;
    else check(false, `npm cloudevents: ${one.headers["webhook-id"]} is not the event that was sent`);
  }
  console.log(`${same === parsed.length ? "ok    " : "FAILED"} ${"npm cloudevents".padEnd(30)} ${same} of ${parsed.length} events are those that were sent`);

  const messages = received.filter((one) => one.path === "/slack");
  check(messages.every((one) => JSON.parse(one.body).text), "every Slack message has a text");
  console.log(`${events.size} payloads of GitHub, ${forPlugin.length} through slack-notify, ${messages.length} Slack messages`);
  console.log(`for example: ${messages[0].body}`);
} catch (error) {
  check(false, error.stack);
} finally {
  engine?.kill("SIGTERM");
  python?.close();
  receiver.close();
  rmSync(home, { recursive: true, force: true });
}
console.log(failures === 0 ? `${received.length} webhooks, all as they should be` : `${failures} failed`);
process.exit(failures === 0 ? 0 : 1);
