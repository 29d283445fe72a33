// Sends webhooks to sources, each signed by its sender's own library. What the libraries sign has to be accepted, and refused once a byte
// of the body, of the signature or of the time is another. Libraries that only verify are asked about every request: the engine has to
// decide as they do. Every example payload of GitHub's own collection goes in as `github.*` and has to leave byte for byte. Usage: node sources.mjs INNESCO_BINARY. Needs python3 too; its libraries go into a folder that is removed again.
import { spawn, spawnSync } from "node:child_process";
import { createHmac } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { LinearWebhookClient } from "@linear/sdk/webhooks";
import { Webhooks as GithubWebhooks } from "@octokit/webhooks";
import { sign as signGithub } from "@octokit/webhooks-methods";
import { Environment, Paddle } from "@paddle/paddle-node-sdk";
import "@shopify/shopify-api/adapters/node"; // tells the library that it runs in node
import { createSHA256HMAC as signShopify } from "@shopify/shopify-api/runtime";
import { isValidSlackRequest } from "@slack/bolt/dist/receivers/verify-request.js";
import { Webhook } from "standardwebhooks";
import Stripe from "stripe";
import { Webhook as Svix } from "svix";
import twilio from "twilio";

const [binary] = process.argv.slice(2);
const examples = createRequire(import.meta.url)("@octokit/webhooks-examples");
const beside = (file) => fileURLToPath(new URL(file, import.meta.url));
const adminKey = "verify-only-6b0f6a1e3c9d4857a2e1f0b7c8d95a34";
const home = mkdtempSync(join(tmpdir(), "innesco-verify-"));
const python = join(home, "venv", "bin", "python");

const run = (command, args) => {
  const { status, stderr } = spawnSync(command, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${command} ${args.join(" ")} ended with ${status}: ${stderr}`);
};

let failures = 0;
const check = (fact, text) => {
  if (fact) return;
  failures += 1;
  console.error(`FAILED: ${text}`);
};

const received = [];
const receiver = createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    received.push(Buffer.concat(parts).toString("latin1"));
    response.end();
  });
});

const start = () => {
  const engine = spawn(
    binary,
    ["serve", "--listen", "127.0.0.1:0", "--data", join(home, "data"), "--plugins", join(home, "plugins"), "--allow-net", "127.0.0.0/8"],
    {
      env: {
        ...process.env, INNESCO_ADMIN_KEY: adminKey, INNESCO_EXTERNAL_URL: "https://hooks.example.com",
        // Each bad request comes from somewhere else: too many of one would be turned away.
        INNESCO_TRUSTED_PROXIES: "127.0.0.1",
      },
      stdio: ["ignore", "pipe", "inherit"],
    },
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

const at = Math.floor(Date.now() / 1000);
// Whatever a sender may put in: text beyond ASCII, numbers that JavaScript would write otherwise.
const json = '{ "type": "invoice.paid",  "id": "evt_1", "total": 1.50, "name": "Zoë \\u00e9" }';
const form = "From=%2B14158675309&To=%2B18005551212&Body=ciao+Zo%C3%AB&MessageStatus=sent";
const kinds = { json: "application/json", form: "application/x-www-form-urlencoded" };

const hmac = (key, text, encoding = "hex") => createHmac("sha256", key).update(text).digest(encoding);
const params = (form) => Object.fromEntries(new URLSearchParams(form));
const slackHeaders = (key, body) =>
  ({ "x-slack-request-timestamp": String(at), "x-slack-signature": `v0=${hmac(key, `v0:${at}:${body}`)}` });
const linear = JSON.stringify({ type: "Issue", action: "create", webhookTimestamp: at * 1000, data: { id: "7" } });
const whsec = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
// A library that throws does not believe.
const holds = async (asked) => { try { return (await asked()) !== false; } catch { return false; } };

// Headers beside a signature that are not signed.
const unsigned = ["x-github-event", "x-shopify-topic", "shopify-topic", "x-gitlab-event"];
// Which source, who signs with what, and what. `verify`: what a library says that cannot sign.
const senders = [
  {
    library: "npm @octokit/webhooks-methods", source: { preset: "github" }, body: json,
    sign: async (key, { body }) => ({ "x-hub-signature-256": await signGithub(key, body), "x-github-event": "push" }),
  },
  {
    library: "npm @octokit/webhooks", source: { preset: "github" }, body: `payload=${encodeURIComponent(json)}`, kind: "form",
    sign: async (secret, { body }) => ({ "x-hub-signature-256": await new GithubWebhooks({ secret }).sign(body), "x-github-event": "push" }),
  },
  {
    library: "npm standardwebhooks", source: { preset: "standard-webhooks" }, body: json,
    sign: async (key, { body, id }) =>
      ({ "webhook-id": id, "webhook-timestamp": String(at), "webhook-signature": new Webhook(key).sign(id, new Date(at * 1000), body) }),
  },
  {
    library: "npm standardwebhooks", source: { preset: "gitlab", secret: whsec }, body: json,
    sign: async (key, { body, id }) => ({
      "webhook-id": id, "webhook-timestamp": String(at), "webhook-signature": new Webhook(key).sign(id, new Date(at * 1000), body),
      "x-gitlab-event": "Push Hook",
    }),
  },
  { library: "PyPI standardwebhooks", source: { preset: "standard-webhooks" }, body: json },
  {
    library: "npm svix", source: { preset: "standard-webhooks" }, body: json,
    sign: async (key, { body, id }) =>
      ({ "svix-id": id, "svix-timestamp": String(at), "svix-signature": new Svix(key).sign(id, new Date(at * 1000), body) }),
  },
  {
    library: "npm stripe", source: { preset: "stripe", secret: "whsec_a-secret-of-stripe" }, body: json,
    sign: async (secret, { body }) =>
      ({ "stripe-signature": new Stripe("sk_test_x").webhooks.generateTestHeaderString({ payload: body, secret, timestamp: at }) }),
  },
  {
    library: "npm @shopify/shopify-api", source: { preset: "shopify", secret: "a-client-secret-of-shopify" }, body: json,
    sign: async (key, { body }) => ({ "x-shopify-hmac-sha256": await signShopify(key, body), "x-shopify-topic": "orders/create" }),
  },
  {
    library: "npm @shopify/shopify-api", source: { preset: "shopify", secret: "a-client-secret-of-shopify" }, body: json,
    sign: async (key, { body }) => ({ "shopify-hmac-sha256": await signShopify(key, body), "shopify-topic": "Order" }),
  },
  { library: "PyPI slack-sdk", source: { preset: "slack", secret: "8f742231b10e8888abcd99yyyzzz85a5" }, body: json },
  { library: "PyPI slack-sdk", source: { preset: "slack", secret: "8f742231b10e8888abcd99yyyzzz85a5" }, body: form, kind: "form" },
  {
    library: "npm @slack/bolt", source: { preset: "slack", secret: "8f742231b10e8888abcd99yyyzzz85a5" }, body: form, kind: "form",
    sign: async (key, { body }) => slackHeaders(key, body),
    verify: async (key, headers, body) => isValidSlackRequest({ signingSecret: key, body, headers }),
  },
  { library: "PyPI twilio", source: { preset: "twilio", secret: "a-token-of-twilio" }, body: form, kind: "form" },
  {
    library: "npm twilio", source: { preset: "twilio", secret: "a-token-of-twilio" }, body: form, kind: "form",
    sign: async (key, { body, url }) => ({ "x-twilio-signature": twilio.getExpectedTwilioSignature(key, url, params(body)) }),
  },
  {
    library: "npm twilio", source: { preset: "twilio", secret: "a-shared-key-of-twilio" }, body: form, kind: "form",
    sign: async (key, { body, url }) => ({
      "x-twilio-signature": twilio.getExpectedTwilioSignature(key, url, params(body), "HMAC_SHA256"),
      "x-twilio-webhooks-signature-settings": "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256",
    }),
    unsigned: ["x-twilio-webhooks-signature-settings"],
  },
  {
    library: "npm twilio", source: { preset: "twilio", secret: "a-token-of-twilio" }, body: json,
    query: `?bodySHA256=${twilio.getExpectedBodyHash(json)}&kind=sms`,
    sign: async (key, { url }) => ({ "x-twilio-signature": twilio.getExpectedTwilioSignature(key, url, {}) }),
  },
  {
    library: "npm @linear/sdk", source: { preset: "linear", secret: "lin_wh_a-secret-of-linear" }, body: linear,
    sign: async (key, { body }) => ({ "linear-signature": hmac(key, body) }),
    verify: async (key, headers, body) => new LinearWebhookClient(key).verify(Buffer.from(body), headers["linear-signature"]),
  },
  {
    library: "npm @paddle/paddle-node-sdk", body: json, fresh: true,
    source: {
      preset: "hmac", header: "paddle-signature", list_key: "h1", timestamp: "list:ts", template: "{timestamp}:{body}",
      secret: "pdl_ntfset_a-secret-of-paddle",
    },
    sign: async (key, { body, now }) => ({ "paddle-signature": `ts=${now};h1=${hmac(key, `${now}:${body}`)}` }),
    verify: async (key, headers, body) =>
      new Paddle("none", { environment: Environment.sandbox }).webhooks.isSignatureValid(body, key, headers["paddle-signature"]),
  },
];

const signedByPython = (library, key, asked) => {
  const input = JSON.stringify({ library: library.slice(5), key, at, ...asked });
  const answer = spawnSync(python, [beside("sign.py")], { input, encoding: "utf8" });
  if (answer.status !== 0) throw new Error(`sign.py ended with ${answer.status}: ${answer.stderr}`);
  return JSON.parse(answer.stdout);
};

// One byte of a text is another; a letter or digit, so that it is still a header.
const changed = (text, place) => text.slice(0, place) + (text[place] === "0" ? "1" : "0") + text.slice(place + 1);
// A few places of a text: its ends, and some between.
const places = (text) => [...new Set([0, 1, text.length >> 2, text.length >> 1, text.length - 1])];

let engine;
try {
  run("python3", ["-m", "venv", join(home, "venv")]);
  run(python, ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", beside("requirements.txt")]);
  await new Promise((done) => receiver.listen(0, "127.0.0.1", done));
  const started = start();
  engine = started.engine;
  const url = await started.url;
  const call = async (method, path, body) => {
    const answer = await fetch(url + path, {
      method,
      headers: { authorization: `Bearer ${adminKey}`, "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const told = await answer.json();
    if (!answer.ok) throw new Error(`${method} ${path}: ${JSON.stringify(told)}`);
    return told;
  };
  let number = 0;
  const send = async (path, headers, body) => {
    number += 1;
    const from = { "x-forwarded-for": `10.${(number >> 16) & 255}.${(number >> 8) & 255}.${number & 255}` };
    const answer = await fetch(url + path, { method: "POST", headers: { ...from, ...headers }, body: Buffer.from(body) });
    const text = await answer.text();
    const isJson = answer.headers.get("content-type")?.includes("json");
    return { status: answer.status, told: isJson ? JSON.parse(text) : { text } };
  };

  let [accepted, changes] = [0, 0];
  for (const [place, sender] of senders.entries()) {
    const { library, kind = "json", body, query = "" } = sender;
    const name = `source-${place}`;
    const made = await call("POST", "/v1/sources", { name, ...sender.source });
    const key = made.secret ?? sender.source.secret;
    const asked = { url: made.url + query, body, id: `msg_${place}`, now: Math.floor(Date.now() / 1000) };
    const sign = sender.sign ?? (async (key, what) => signedByPython(library, key, what));
    const proof = await sign(key, asked);
    const headers = { "content-type": kinds[kind], ...proof };
    if (sender.verify) check(await holds(() => sender.verify(key, headers, body)), `${library} does not verify a signature made for it`);
    const good = await send(made.path + query, headers, body);
    check(good.status === 200, `${library}: ${JSON.stringify(good)}`);
    await send(made.path + query, headers, body);
    const { items } = await call("GET", `/v1/events?source=${name}`);
    check(items.length === 1, `${library}: the same request twice is ${items.length} events`);
    let refused = 0;
    const refuse = async (what, tampered, content) => {
      const changed = { ...headers, ...tampered };
      if (sender.verify) {
        const believed = await holds(() => sender.verify(key, changed, content));
        check(!believed, `${library}, ${what}: the library believes it`);
      }
      const { status, told } = await send(made.path + query, changed, content);
      check(status === 401 && told.code === "not_verified", `${library}, ${what}: ${status} ${JSON.stringify(told)}`);
      refused += 1;
    };
    // Of a form, a byte within a value.
    const inForm = ["ciao", "4158", "invoice"].map((word) => body.indexOf(word)).filter((place) => place >= 0);
    for (const place of kind === "form" ? inForm : places(body)) await refuse(`byte ${place} of the body`, {}, changed(body, place));
    const notSigned = [...unsigned, ...(sender.unsigned ?? [])];
    for (const [name, value] of Object.entries(proof).filter(([name]) => !notSigned.includes(name))) {
      for (const place of places(value)) await refuse(`byte ${place} of ${name}`, { [name]: changed(value, place) }, body);
    }
    await refuse("nothing signed", Object.fromEntries(Object.keys(proof).map((name) => [name, ""])), body);
    accepted += 1;
    changes += refused;
    console.log(`ok     ${library.padEnd(30)} ${made.preset}: accepted, ${refused} changes refused`);
  }
  console.log(`${accepted} requests of ${new Set(senders.map(({ library }) => library)).size} libraries accepted, ${changes} changes refused`);

  const github = await call("POST", "/v1/sources", { name: "github", preset: "github" });
  await call("POST", "/v1/endpoints", { name: "copy", url: `http://127.0.0.1:${receiver.address().port}/`, events: ["github.*"], where: { source: ["github"] }, envelope: "data" });
  const sent = [];
  for (const { name, examples: payloads } of examples) {
    for (const payload of payloads) {
      const body = JSON.stringify(payload);
      const headers = {
        "content-type": "application/json", "x-github-event": name, "x-github-delivery": `delivery-${sent.length}`,
        "x-hub-signature-256": await signGithub(github.secret, body),
      };
      const { status, told } = await send(github.path, headers, body);
      check(status === 200, `${name}: ${JSON.stringify(told)}`);
      const story = await call("GET", `/v1/events/${told.accepted}`);
      check(story.type === `github.${name}` && story.bytes === Buffer.byteLength(body), `${name}: ${story.type}, ${story.bytes} bytes`);
      sent.push(Buffer.from(body).toString("latin1"));
    }
  }
  const deadline = Date.now() + 60_000;
  while (received.length < sent.length && Date.now() < deadline) await new Promise((done) => setTimeout(done, 100));
  sent.sort();
  received.sort();
  const same = sent.filter((body, place) => body === received[place]).length;
  check(same === sent.length && received.length === sent.length, `${same} of ${sent.length} payloads are what was sent; ${received.length} arrived`);
  console.log(`${same === sent.length ? "ok    " : "FAILED"} ${"npm @octokit/webhooks-examples".padEnd(30)} ${same} of ${sent.length} payloads, byte for byte`);
} catch (error) {
  check(false, error.stack);
} finally {
  engine?.kill("SIGTERM");
  receiver.close();
  rmSync(home, { recursive: true, force: true });
}
console.log(failures === 0 ? "sources: all as it should be" : `${failures} failed`);
process.exit(failures === 0 ? 0 : 1);
