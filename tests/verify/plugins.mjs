// Runs the plugins in JavaScript and Python in an engine, under the limits that every plugin has. Checks three things: real events
// become webhooks; state, logs and settings work; and an endless loop, too much memory and a bad payload end as their named
// outcomes. Prints the load time, run time and memory of each. Usage: node plugins.mjs INNESCO_BINARY RUST_PLUGIN_WASM
import { spawn, spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const [binary, rustPlugin] = process.argv.slice(2);
const root = fileURLToPath(new URL("../..", import.meta.url));
const adminKey = "verify-only-6b0f6a1e3c9d4857a2e1f0b7c8d95a34";
const home = mkdtempSync(join(tmpdir(), "innesco-plugins-"));
const built = join(home, "built");
mkdirSync(built);
mkdirSync(join(home, "plugins"));

const run = (command, args, cwd) => {
  const began = Date.now();
  const { status, stdout, stderr, error } = spawnSync(command, args, { cwd, encoding: "utf8" });
  if (status !== 0) throw new Error(`${command} ${args.join(" ")} in ${cwd}: ${error ?? stdout + stderr}`);
  return Date.now() - began;
};

// Each language: how to build its plugin, the same plugin with a fault for some totals, and where its sources are.
const javascript = (source, out) => run("node", ["build.mjs", source, out], join(root, "plugins/js-orders"));
const python = (folder, out) =>
  run(
    join(root, "tests/verify/.venv/bin/componentize-py"),
    ["-d", join(root, "plugin-sdk/wit"), "-w", "plugin", "componentize", "--stub-wasi", "app", "-o", out],
    folder,
  );

const took = {};
took["js-orders"] = javascript("plugin.js", join(built, "js-orders.wasm"));
took["py-orders"] = python(join(root, "plugins/py-orders"), join(built, "py-orders.wasm"));

const broken = join(home, "broken");
mkdirSync(broken);
const js = readFileSync(join(root, "plugins/js-orders/plugin.js"), "utf8").replace('"js-orders"', '"js-broken"').replace('"order.created"', '"order.broken"');
writeFileSync(
  join(broken, "plugin.js"),
  js.replace("const { id, total } = order(event);", "const { id, total } = order(event);\n    if (id === 'loop') for (;;) {}\n    if (id === 'memory') { const all = []; for (;;) all.push(new Uint8Array(1 << 20).fill(1)); }"),
);
javascript(join(broken, "plugin.js"), join(built, "js-broken.wasm"));
const py = readFileSync(join(root, "plugins/py-orders/app.py"), "utf8").replace('"py-orders"', '"py-broken"').replace('"order.created"', '"order.broken"');
writeFileSync(
  join(broken, "app.py"),
  py.replace("        found = order(event)\n", "        found = order(event)\n        while found.get(\"id\") == \"loop\":\n            pass\n        kept = []\n        while found.get(\"id\") == \"memory\":\n            kept.append(b\"x\" * (1 << 20))\n"),
);
python(broken, join(built, "py-broken.wasm"));

const received = [];
const receiver = createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    received.push(JSON.parse(Buffer.concat(parts)));
    response.end();
  });
});
await new Promise((done) => receiver.listen(0, "127.0.0.1", done));

const engine = spawn(
  binary,
  ["serve", "--listen", "127.0.0.1:0", "--data", join(home, "data"), "--plugins", join(home, "plugins"), "--allow-net", "127.0.0.0/8"],
  { env: { ...process.env, INNESCO_ADMIN_KEY: adminKey, INNESCO_PLUGIN_QUARANTINE: "0" }, stdio: ["ignore", "pipe", "inherit"] },
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
    method, headers: { authorization: `Bearer ${adminKey}`, "content-type": "application/json" }, body: body && JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
};

let failures = 0;
const check = (fact, text) => {
  if (fact) return;
  failures += 1;
  console.error(`FAILED: ${text}`);
};
const until = async (what, condition) => {
  const deadline = Date.now() + 600_000;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`not within ten minutes: ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
};
// The engine stores the machine code of every plugin here.
const cached = () => readdirSync(join(home, "data/cache")).reduce((sum, file) => sum + statSync(join(home, "data/cache", file)).size, 0) / 1e6;
const resident = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${engine.pid}/status`, "utf8"))[1]) / 1024;

try {
  await call("POST", "/v1/endpoints", { name: "receiver", url: `http://127.0.0.1:${receiver.address().port}/` });
  const rust = "order-router";
  const files = { [rust]: rustPlugin, "js-orders": join(built, "js-orders.wasm"), "py-orders": join(built, "py-orders.wasm"), "js-broken": join(built, "js-broken.wasm"), "py-broken": join(built, "py-broken.wasm") };
  const rows = {};
  for (const [name, file] of Object.entries(files)) {
    const [before, code, began] = [resident(), cached(), Date.now()];
    copyFileSync(file, join(home, "plugins", `${name}.wasm`));
    await until(`${name} serves`, async () => {
      const found = (await call("GET", "/v1/plugins")).items.find((one) => one.name === name);
      if (found?.state === "not-loadable") throw new Error(`${name} does not load: ${found.error}`);
      return found?.state === "serving";
    });
    rows[name] = { file: `${(statSync(file).size / 1e6).toFixed(2)} MB`, build: took[name] && `${(took[name] / 1000).toFixed(1)} s`, load: `${((Date.now() - began) / 1000).toFixed(2)} s`, code: `${(cached() - code).toFixed(1)} MB`, resident: `+${(resident() - before).toFixed(0)} MB` };
  }

  const send = async (type, data) => (await call("POST", "/v1/events", { type, data })).event;
  const settled = (event) =>
    until(`${event} is settled`, async () => {
      const story = await call("GET", `/v1/events/${event}`);
      // An event counts as failed once one of its runs is parked, even while others wait.
      return !story.parts.to_run && story.parts.runs.waiting === 0 && story;
    });

  // A hundred orders are sent, the last ten of them twice. The plugins in JavaScript and Python report each big order once.
  const stories = [];
  for (let id = 0; id < 100; id += 1) stories.push(await settled(await send("order.created", { id, total: id < 50 ? 10 : 1500 })));
  for (let id = 90; id < 100; id += 1) await settled(await send("order.created", { id, total: 1500 }));
  for (const [name, word] of [["js-orders", "JavaScript"], ["py-orders", "Python"]]) {
    const runs = stories.flatMap((story) => story.runs.filter((run) => run.plugin === name));
    check(runs.length === 100 && runs.every((run) => run.outcome === "ok"), `${word}: 100 runs end ok: ${JSON.stringify(runs.find((run) => run.outcome !== "ok"))}`);
    check(runs.filter((run) => run.webhooks === 1).length === 50, `${word}: 50 orders are big`);
    const line = runs[99].log?.[0];
    check(line?.message === "big order" && line?.fields?.order === "99", `${word}: its log line has facts: ${JSON.stringify(line)}`);
    const times = runs.map((run) => run.duration_ms).sort((one, other) => one - other);
    rows[name].run = `${times[50].toFixed(2)} ms`;
    rows[name].memory = `${(Math.max(...runs.map((run) => run.memory_bytes)) / 1e6).toFixed(1)} MB`;
    const keys = (await call("GET", `/v1/plugins/${name}/state/keys?limit=100`)).items;
    check(keys.length === 50 && keys.every((key) => key.expires_at), `${word}: state has 50 keys that expire`);
  }
  const rustRuns = stories.flatMap((story) => story.runs.filter((run) => run.plugin === rust));
  const times = rustRuns.map((run) => run.duration_ms).sort((one, other) => one - other);
  rows[rust].run = `${times[50].toFixed(2)} ms`;
  rows[rust].memory = `${(Math.max(...rustRuns.map((run) => run.memory_bytes)) / 1e6).toFixed(1)} MB`;
  // The plugin in Rust also reports repeated big orders: 50 orders, and once more the 10 that are sent twice.
  await until("all webhooks arrive", () => received.length >= 50 + 50 + 60);
  check(received.length === 160, `160 webhooks arrive, not ${received.length}`);
  check(received.every((one) => /^Order \d+ over 1000$/.test(one.text)), "their texts are alike");

  // The plugins read the setting that the operator has set.
  for (const name of ["js-orders", "py-orders"]) await call("PUT", `/v1/plugins/${name}/config`, { threshold: 5 });
  const small = await settled(await send("order.created", { id: 200, total: 10 }));
  check(small.runs.filter((run) => run.webhooks === 1).length === 2, "both read the setting");

  // The limits apply as to every plugin.
  const bad = [["loop", "deadline"], ["memory", "out-of-memory"], ["payload", "failed"]];
  for (const [id, outcome] of bad) {
    const story = await settled(await send("order.broken", id === "payload" ? { id } : { id, total: 1500 }));
    for (const name of ["js-broken", "py-broken"]) {
      const found = story.runs.find((run) => run.plugin === name);
      const text = `${found?.outcome} ${found?.code}: ${found?.message}`;
      // An interpreter may notice that memory is short, and fail with its own error.
      const ends = id === "memory" ? ["out-of-memory", "trapped", "failed"] : [outcome];
      check(ends.includes(found?.outcome), `${name} ${id}: ${text}`);
      if (id === "payload") check(found?.code === "bad-payload", `${name} ${id}: ${text}`);
      console.log(`${name} ${id}: ${text.slice(0, 160)}`);
    }
  }
  for (const name of ["js-broken", "py-broken"]) delete rows[name];
  console.table(rows);
  console.log(`engine: ${resident().toFixed(0)} MB resident`);
} finally {
  engine.kill();
  receiver.close();
  rmSync(home, { recursive: true, force: true });
}
if (failures > 0) process.exit(1);
console.log("plugins in JavaScript and Python: all checks passed");
