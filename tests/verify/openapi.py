"""Lets schemathesis read the engine's OpenAPI document and send generated requests. Usage: openapi.py BINARY PLUGIN_WASM

No answer may be a 5xx, or have a status, a header or a body that is not in the document. The engine must not refuse what the document
allows, or accept what it forbids. MAX_EXAMPLES sets the number of requests. SEED chooses them, and is printed."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
KEY = "verify-only-6b0f6a1e3c9d4857a2e1f0b7c8d95a34"
EXAMPLES = os.environ.get("MAX_EXAMPLES", "50")
SEED = os.environ.get("SEED") or str(random.randrange(1 << 32))


def main(binary: str, plugin: str) -> int:
    with tempfile.TemporaryDirectory(prefix="innesco-verify-") as home:
        plugins = Path(home, "plugins")
        plugins.mkdir()
        shutil.copy(plugin, plugins / "slack-notify.wasm")
        command = [binary, "serve", "--listen", "127.0.0.1:0", "--data", f"{home}/data", "--plugins", str(plugins)]
        with open(f"{home}/log", "w") as log:
            engine = subprocess.Popen(command, env={**os.environ, "INNESCO_ADMIN_KEY": KEY}, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            url = next(found[1] for found in (re.match(r"engine\s+(\S+)", line) for line in engine.stdout) if found)
            prepare(url)
            failed = run(url, home)
            if engine.poll() is not None:
                print(f"the engine ended with {engine.returncode}", file=sys.stderr)
                failed = True
            text = Path(home, "log").read_text()
            if failed:
                print(f"the engine's log ends:\n{text[-4000:]}", file=sys.stderr)
            for line in text.splitlines():
                if "panicked" in line or re.search(r"\bERROR\b", line):
                    print(f"in the engine's log: {line}", file=sys.stderr)
                    failed = True
        finally:
            engine.terminate()
            engine.wait()
    print("0 passed, 1 failed" if failed else "1 passed, 0 failed")
    return int(failed)


def prepare(url: str) -> None:
    """Creates things to read: an endpoint without a receiver, an event for it, settings of the plugin."""
    call(url, "POST", "/v1/endpoints", {"name": "crm", "url": "https://crm.example.invalid/hook", "events": ["order.*"]})
    call(url, "POST", "/v1/events", [{"type": "order.created", "data": {}}, {"type": "github.push", "data": {}}])


def call(url: str, method: str, path: str, body: object) -> None:
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(url + path, json.dumps(body).encode(), headers, method=method)).close()


def run(url: str, home: str) -> bool:
    print(f"schemathesis with seed {SEED} and {EXAMPLES} examples for each operation and phase (SEED=…, MAX_EXAMPLES=…)", flush=True)
    arguments = [
        f"--config-file={HERE}/schemathesis.toml", "run", f"{url}/openapi.json", f"--header=Authorization: Bearer {KEY}",
        f"--seed={SEED}", f"--max-examples={EXAMPLES}", "--continue-on-failure", "--no-color", "--generation-database=none",
    ]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE)}
    schemathesis = Path(sys.executable).with_name("schemathesis")
    return subprocess.run([schemathesis, *arguments], env=environment, cwd=home).returncode != 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
