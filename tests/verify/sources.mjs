// Sends webhooks to sources, each signed by its sender's own library: what they signed has to be accepted, and refused once a byte of the
// body, of the signature or of the time is another. Every example payload of GitHub's own collection goes in as `github.*` and has to
// leave byte for byte. Usage: node sources.mjs INNESCO_BINARY. Needs python3 too; its libraries go into a folder that is removed again.
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { sign as signGithub } from "@octokit/webhooks-methods";
import "@shopify/shopify-api/adapters/node"; // tells the library that it runs in node
import { createSHA256HMAC as signShopify } from "@shopify/shopify-api/runtime";
import { Webhook } from "standardwebhooks";
import Stripe from "stripe";

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

// What stands beside a signature and is not signed.
const unsigned = ["x-github-event", "x-shopify-topic"];
// Which source, who signs with what, and what.
const senders = [
  {
    library: "npm @octokit/webhooks-methods", source: { preset: "github" }, body: json,
    sign: async (key, { body }) => ({ "x-hub-signature-256": await signGithub(key, body), "x-github-event": "push" }),
  },
  {
    library: "npm standardwebhooks", source: { preset: "standard-webhooks" }, body: json,
    sign: async (key, { body, id }) =>
      ({ "webhook-id": id, "webhook-timestamp": String(at), "webhook-signature": new Webhook(key).sign(id, new Date(at * 1000), body) }),
  },
  { library: "PyPI standardwebhooks", source: { preset: "standard-webhooks" }, body: json },
  {
    library: "npm stripe", source: { preset: "stripe", secret: "whsec_a-secret-of-stripe" }, body: json,
    sign: async (secret, { body }) =>
      ({ "stripe-signature": new Stripe("sk_test_x").webhooks.generateTestHeaderString({ payload: body, secret, timestamp: at }) }),
  },
  {
    library: "npm @shopify/shopify-api", source: { preset: "shopify", secret: "a-client-secret-of-shopify" }, body: json,
    sign: async (key, { body }) => ({ "x-shopify-hmac-sha256": await signShopify(key, body), "x-shopify-topic": "orders/create" }),
  },
  { library: "PyPI slack-sdk", source: { preset: "slack", secret: "8f742231b10e8888abcd99yyyzzz85a5" }, body: json },
  { library: "PyPI slack-sdk", source: { preset: "slack", secret: "8f742231b10e8888abcd99yyyzzz85a5" }, body: form, kind: "form" },
  { library: "PyPI twilio", source: { preset: "twilio", secret: "a-token-of-twilio" }, body: form, kind: "form" },
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
    return { status: answer.status, told: await answer.json() };
  };

  for (const [place, sender] of senders.entries()) {
    const { library, kind = "json", body } = sender;
    const made = await call("POST", "/v1/sources", { name: `source-${place}`, ...sender.source });
    const asked = { url: made.url, body, id: `msg_${place}` };
    const sign = sender.sign ?? (async (key, what) => signedByPython(library, key, what));
    const proof = await sign(made.secret, asked);
    const headers = { "content-type": kinds[kind], ...proof };
    const good = await send(made.path, headers, body);
    check(good.status === 200, `${library}: ${JSON.stringify(good)}`);
    const again = await send(made.path, headers, body);
    check(again.told.accepted === good.told.accepted, `${library}: the same request is another event`);
    let refused = 0;
    const refuse = async (what, tampered, content) => {
      const { status, told } = await send(made.path, { ...headers, ...tampered }, content);
      check(status === 401 && told.code === "not_verified", `${library}, ${what}: ${status} ${JSON.stringify(told)}`);
      refused += 1;
    };
    // Of a form, a byte within a value.
    const inBody = kind === "form" ? [body.length - 1, body.indexOf("ciao"), body.indexOf("4158")] : places(body);
    for (const place of inBody) await refuse(`byte ${place} of the body`, {}, changed(body, place));
    for (const [name, value] of Object.entries(proof).filter(([name]) => !unsigned.includes(name))) {
      for (const place of places(value)) await refuse(`byte ${place} of ${name}`, { [name]: changed(value, place) }, body);
    }
    await refuse("nothing signed", Object.fromEntries(Object.keys(proof).map((name) => [name, ""])), body);
    console.log(`ok     ${library.padEnd(30)} ${made.preset}: accepted, ${refused} changes refused`);
  }

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
