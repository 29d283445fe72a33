// Sends every example payload of GitHub's own collection through the engine, also through slack-notify, to an endpoint of each
// signature that someone else has written a verifier for; then once more while their secrets are being rotated. Each webhook has to be
// believed under the keys that hold and refused under another, by libraries that know nothing of the engine.
// Usage: node verify.mjs INNESCO_BINARY PLUGIN_WASM. Needs python3 too; its libraries go into a folder that is removed again.
import { spawn, spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { verify as verifyGithub } from "@octokit/webhooks-methods";
import "@shopify/shopify-api/adapters/node"; // tells the library that it runs in node
import { ApiVersion, LogSeverity, shopifyApi } from "@shopify/shopify-api";
import { HTTP } from "cloudevents";
import { Webhook } from "standardwebhooks";

const [binary, plugin] = process.argv.slice(2);
const examples = createRequire(import.meta.url)("@octokit/webhooks-examples");
const beside = (file) => fileURLToPath(new URL(file, import.meta.url));
const adminKey = "verify-only-6b0f6a1e3c9d4857a2e1f0b7c8d95a34";
const home = mkdtempSync(join(tmpdir(), "innesco-verify-"));
mkdirSync(join(home, "plugins"));
copyFileSync(plugin, join(home, "plugins", "slack-notify.wasm"));

// What is asked: which endpoint, which libraries, and whether two keys can sign at once.
const endpoints = [
  { name: "v1", body: { signature: "v1" }, several: true, libraries: ["npm standardwebhooks", "PyPI standardwebhooks"] },
  { name: "v1a", body: { signature: "v1a" }, several: true, libraries: ["PyPI pynacl"] },
  { name: "github", body: { signature: "github", envelope: "data" }, several: false, libraries: ["npm @octokit/webhooks-methods"] },
  { name: "stripe", body: { signature: "stripe", envelope: "data" }, several: true, libraries: ["PyPI stripe"] },
  { name: "shopify", body: { signature: "shopify", envelope: "data" }, several: false, libraries: ["npm @shopify/shopify-api"] },
];

const run = (command, args) => {
  const { status, stderr } = spawnSync(command, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${command} ${args.join(" ")} ended with ${status}: ${stderr}`);
};

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

// What each library says; Python's are asked all at once.
const inProcess = {
  "npm standardwebhooks": async (key, one) => {
    try {
      new Webhook(key).verify(one.body.toString("utf8"), one.headers);
      return true;
    } catch (error) {
      if (error.constructor.name !== "WebhookVerificationError") throw error;
      return false;
    }
  },
  "npm @shopify/shopify-api": async (key, one) => {
    // It looks at the signature first, and then for what Shopify alone can say.
    const { webhooks } = shopifyApi({
      apiKey: "none", apiSecretKey: key, apiVersion: ApiVersion.October26, hostName: "localhost", isEmbeddedApp: false,
      logger: { level: LogSeverity.Error },
    });
    const rawRequest = { method: "POST", url: one.path, headers: one.headers };
    const { valid, reason } = await webhooks.validate({ rawBody: one.body.toString("utf8"), rawRequest, rawResponse: {} });
    if (!valid && !["invalid_hmac", "missing_headers"].includes(reason)) throw new Error(`shopify-api says ${reason}`);
    return reason !== "invalid_hmac";
  },
  "npm @octokit/webhooks-methods": (key, one) => verifyGithub(key, one.body.toString("utf8"), one.headers["x-hub-signature-256"]),
};
const judge = async (cases) => {
  const python = cases.filter(({ library }) => library.startsWith("PyPI "));
  const asked = python.map(({ library, key, one }) =>
    JSON.stringify({ library: library.slice(5), key, headers: one.headers, body: one.body.toString("base64") }));
  const answer = spawnSync(join(home, "venv", "bin", "python"), [beside("verify.py")], { input: asked.join("\n"), encoding: "utf8", maxBuffer: 1 << 26 });
  if (answer.status !== 0) throw new Error(`verify.py ended with ${answer.status}: ${answer.stderr}`);
  const verdicts = answer.stdout.trim().split("\n").map((line) => JSON.parse(line));
  python.forEach((each, place) => { each.believed = verdicts[place]; });
  for (const each of cases) each.believed ??= await inProcess[each.library](each.key, each.one);
};

let engine;
try {
  run("python3", ["-m", "venv", join(home, "venv")]);
  run(join(home, "venv", "bin", "python"), ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", beside("requirements.txt")]);

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
  // What a receiver verifies with.
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
  await judge(cases);
  for (const library of endpoints.flatMap(({ libraries }) => libraries)) {
    const asked = cases.filter((each) => each.library === library);
    const wrong = asked.filter(({ believed, expected }) => believed !== expected);
    wrong.forEach(({ one, expected }) => check(false, `${library}: ${one.path} ${one.headers["webhook-id"]} should be ${expected ? "believed" : "refused"}`));
    const count = (expected, duringRotation) => asked.filter((each) => each.expected === expected && each.one.rotating === duringRotation).length;
    console.log(
      `${wrong.length === 0 ? "ok    " : "FAILED"} ${library.padEnd(30)} ${asked.length} times asked: ` +
        `${count(true, false)} believed, ${count(false, false)} refused; while rotating ${count(true, true)} believed, ${count(false, true)} refused`,
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
  receiver.close();
  rmSync(home, { recursive: true, force: true });
}
console.log(failures === 0 ? `${received.length} webhooks, all as they should be` : `${failures} failed`);
process.exit(failures === 0 ? 0 : 1);
