// Sends webhooks to sources, each signed as its sender's own library signs it (senders.mjs). The engine must accept each request
// that the library signs or accepts, and must refuse it after one byte of the body, of the signature or of the time was changed. If
// a library can check signatures, it receives each of these requests too, and must decide as the engine does. The engine must
// answer questions of hubs as their libraries do. Finally every example payload of GitHub's collection is sent to the source, and
// must be delivered byte for byte as `github.*`. Usage: node sources.mjs INNESCO_BINARY
import { spawn } from "node:child_process";
import { createHmac } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sign as signGithub } from "@octokit/webhooks-methods";
import { startPython } from "./python.mjs";
import { askZoom, at, senders, unsigned } from "./senders.mjs";

const [binary] = process.argv.slice(2);
const examples = createRequire(import.meta.url)("@octokit/webhooks-examples");
const adminKey = "verify-only-6b0f6a1e3c9d4857a2e1f0b7c8d95a34";
const home = mkdtempSync(join(tmpdir(), "innesco-verify-"));
mkdirSync(join(home, "plugins"));
const kinds = { json: "application/json", form: "application/x-www-form-urlencoded" };

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
        // Each refused request names a different caller address, because the engine limits a caller after 30 refusals.
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

// A library that throws refuses the request.
const holds = async (asked) => { try { return (await asked()) !== false; } catch { return false; } };

// Changes one byte of a text to a digit, so that the text is still a valid header.
const changed = (text, place) => text.slice(0, place) + (text[place] === "0" ? "1" : "0") + text.slice(place + 1);
// Returns the first and the last place in a text, and some places in between.
const places = (text) => [...new Set([0, 1, text.length >> 2, text.length >> 1, text.length - 1])];

let [engine, python] = [];
try {
  python = startPython();
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

  const signer = ({ library, sign }) => sign ?? ((key, request) => python.ask({ do: "sign", library: library.slice(5), key, at, ...request }));
  const verifier = ({ library, verify, verifies }) => verify ?? (verifies &&
    ((key, headers, body, url) =>
      python.ask({ do: "verify", library: library.slice(5), key, headers, body: Buffer.from(body).toString("base64"), url })));

  let [accepted, changes, judged] = [0, 0, 0];
  for (const [place, sender] of senders.entries()) {
    const { library, kind = "json", body, query = "", bodyIsSigned = true } = sender;
    const name = `source-${place}`;
    const made = await call("POST", "/v1/sources", { name, ...sender.source });
    const key = made.secret ?? sender.source.secret;
    const url = made.url + query;
    const verify = verifier(sender);
    const proof = await signer(sender)(key, { url, body, id: `msg_${place}`, now: Math.floor(Date.now() / 1000) });
    const headers = { "content-type": kinds[kind], ...proof };
    if (verify) check(await holds(() => verify(key, headers, body, url)), `${library} refuses what was signed for it`);
    const good = await send(made.path + query, headers, body);
    check(good.status === 200, `${library}: ${JSON.stringify(good)}`);
    await send(made.path + query, headers, body);
    const { items } = await call("GET", `/v1/events?source=${name}`);
    check(items.length === 1, `${library}: the same request twice is ${items.length} events`);
    let refused = 0;
    const refuse = async (what, changed, content) => {
      const tampered = { ...headers, ...changed };
      if (verify) {
        check(!(await holds(() => verify(key, tampered, content, url))), `${library}, ${what}: the library accepts it`);
        judged += 1;
      }
      const { status, told } = await send(made.path + query, tampered, content);
      check(status === 401 && told.code === "not_verified", `${library}, ${what}: ${status} ${JSON.stringify(told)}`);
      refused += 1;
    };
    // In a form, one byte of a value is changed. If only some members of the body are signed, one byte in the value of each of
    // these members is changed.
    const before = (name) => (kind === "form" ? `${name}=` : `"${name}":"`);
    const values = sender.signed?.map(before).map((start) => body.indexOf(start) + start.length);
    const inForm = ["ciao", "4158", "invoice"].map((word) => body.indexOf(word)).filter((place) => place >= 0);
    const inBody = values ?? (kind === "form" ? inForm : places(body));
    for (const place of bodyIsSigned ? inBody : []) await refuse(`byte ${place} of the body`, {}, changed(body, place));
    const notSigned = [...unsigned, ...(sender.unsigned ?? [])];
    for (const [name, value] of Object.entries(proof).filter(([name]) => !notSigned.includes(name))) {
      for (const place of places(value)) await refuse(`byte ${place} of ${name}`, { [name]: changed(value, place) }, body);
    }
    const none = Object.fromEntries(Object.keys(proof).map((name) => [name, ""]));
    if (Object.keys(none).length > 0) await refuse("nothing signed", none, body);
    accepted += 1;
    changes += refused;
    console.log(`ok     ${library.padEnd(30)} ${made.preset}: accepted, ${refused} changes refused${verify ? " by both" : ""}`);
  }
  const libraries = new Set(senders.map(({ library }) => library)).size;
  console.log(`${accepted} requests of ${libraries} libraries accepted, ${changes} changes refused, ${judged} of them by the library too`);

  // Questions of senders: the engine must answer as the sender's library does.
  const secret = "a-secret-token-of-zoom";
  const zoom = await call("POST", "/v1/sources", { name: "zoom", preset: "zoom", secret });
  const question = JSON.stringify({ event: "endpoint.url_validation", event_ts: at * 1000, payload: { plainToken: "qgg8vlvZRS6UYooatFL8Aw" } });
  const signature = `v0=${createHmac("sha256", secret).update(`v0:${at}:${question}`).digest("hex")}`;
  const asked = { "content-type": kinds.json, "x-zm-request-timestamp": String(at), "x-zm-signature": signature };
  const [ours, theirs] = [await send(zoom.path, asked, question), await askZoom(secret, asked, question)];
  const sorted = (object) => JSON.stringify(Object.entries(object).sort());
  check(ours.status === theirs.statusCode && sorted(ours.told) === sorted(JSON.parse(theirs.body)), `npm @zoom/rivet answers ${theirs.body}, the engine ${JSON.stringify(ours)}`);
  for (const [preset, library] of [["meta", "pywa"], ["strava", "stravalib"]]) {
    const token = "a-token-of-a-hub";
    const hub = await call("POST", "/v1/sources", { name: preset, preset, verify_token: token, ...(preset === "meta" ? { secret } : {}) });
    for (const sent of [token, "another-token"]) {
      const query = { "hub.mode": "subscribe", "hub.verify_token": sent, "hub.challenge": "15f7d1a91c1f40f8a748fd134752feb3" };
      const theirs = await python.ask({ do: "challenge", library, token, query });
      const answer = await fetch(`${url}${hub.path}?${new URLSearchParams(query)}`);
      const text = await answer.text();
      const same = preset === "strava" && answer.ok ? sorted(JSON.parse(text)) === sorted(JSON.parse(theirs)) : text === theirs;
      check(answer.ok ? same : theirs === null, `PyPI ${library} answers ${theirs}, the engine ${answer.status} ${text}`);
      check(answer.ok === (sent === token), `${preset}: the token ${sent} is answered ${answer.status}`);
    }
  }
  console.log("answers of Zoom, Meta and Strava are those of npm @zoom/rivet, PyPI pywa and PyPI stravalib");

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
  python?.close();
  receiver.close();
  rmSync(home, { recursive: true, force: true });
}
console.log(failures === 0 ? "sources: all as it should be" : `${failures} failed`);
process.exit(failures === 0 ? 0 : 1);
