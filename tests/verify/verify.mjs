// Sends every example payload of GitHub's own collection through the engine with slack-notify, and verifies every webhook with the
// official JavaScript library of Standard Webhooks. Usage: node verify.mjs INNESCO_BINARY PLUGIN_WASM
import { spawn } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Webhook } from "standardwebhooks";

const [binary, plugin] = process.argv.slice(2);
const examples = createRequire(import.meta.url)("@octokit/webhooks-examples");
const key = "a-key-for-verify-only";
const home = mkdtempSync(join(tmpdir(), "innesco-verify-"));
mkdirSync(join(home, "plugins"));
copyFileSync(plugin, join(home, "plugins", "slack-notify.wasm"));

const received = [];
const receiver = createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    received.push({ path: request.url, headers: request.headers, body: Buffer.concat(parts).toString("utf8") });
    response.end();
  });
});
await new Promise((done) => receiver.listen(0, "127.0.0.1", done));
const sink = `http://127.0.0.1:${receiver.address().port}`;

const engine = spawn(
  binary,
  ["serve", "--listen", "127.0.0.1:0", "--data", join(home, "data"), "--plugins", join(home, "plugins"), "--allow-net", "127.0.0.0/8"],
  { env: { ...process.env, INNESCO_ADMIN_KEY: key }, stdio: ["ignore", "pipe", "inherit"] },
);
const url = await new Promise((done, failed) => {
  let text = "";
  engine.stdout.on("data", (chunk) => {
    text += chunk;
    const found = /^engine\s+(\S+)/m.exec(text);
    if (found) done(found[1]);
  });
  engine.on("exit", (code) => failed(new Error(`the engine ended with ${code}`)));
});

const call = async (method, path, body) => {
  const answer = await fetch(url + path, {
    method,
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const json = await answer.json();
  if (!answer.ok) throw new Error(`${method} ${path}: ${JSON.stringify(json)}`);
  return json;
};

let failures = 0;
const check = (fact, text) => {
  if (fact) return;
  failures += 1;
  console.error(`FAILED: ${text}`);
};

try {
  const slack = await call("POST", "/v1/endpoints", { name: "slack", url: `${sink}/slack` });
  const all = await call("POST", "/v1/endpoints", { name: "all", url: `${sink}/all`, events: ["github.*"] });
  const secrets = { "/slack": slack.secret, "/all": all.secret };

  let sent = 0;
  const forPlugin = [];
  for (const { name, examples: payloads } of examples) {
    for (const payload of payloads) {
      const { event } = await call("POST", "/v1/events", { type: `github.${name}`, source: "github", data: payload });
      sent += 1;
      if (name === "push" || name === "issues") forPlugin.push(event);
    }
  }

  const deadline = Date.now() + 60_000;
  const runs = async () => Promise.all(forPlugin.map(async (event) => (await call("GET", `/v1/events/${event}`)).runs[0]));
  let settled = await runs();
  while (Date.now() < deadline && (settled.some((run) => run?.state !== "done") || received.filter((one) => one.path === "/all").length < sent)) {
    await new Promise((done) => setTimeout(done, 100));
    settled = await runs();
  }
  settled.forEach((run, place) => check(run?.outcome === "ok", `${forPlugin[place]}: ${JSON.stringify(run)}`));
  check(received.filter((one) => one.path === "/all").length === sent, `${sent} events, ${received.length} webhooks`);
  for (const one of received) {
    try {
      new Webhook(secrets[one.path]).verify(one.body, one.headers);
    } catch (error) {
      check(false, `${one.headers["webhook-id"]} does not verify: ${error.message}`);
    }
  }
  const messages = received.filter((one) => one.path === "/slack");
  check(messages.length > 0 && messages.every((one) => JSON.parse(one.body).text), "every Slack message has a text");
  console.log(`${sent} payloads of GitHub, ${forPlugin.length} through slack-notify, ${messages.length} Slack messages, ${received.length} webhooks verified`);
  if (messages[0]) console.log(`for example: ${messages[0].body}`);
} finally {
  engine.kill("SIGTERM");
  receiver.close();
  rmSync(home, { recursive: true, force: true });
}
console.log(`${received.length - failures} passed, ${failures} failed`);
process.exit(failures === 0 ? 0 : 1);
