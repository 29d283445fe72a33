// Signs and verifies webhooks with libraries from PyPI, in one process (libraries.py). `make verify` installs these libraries into
// the folder .venv.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const beside = (file) => fileURLToPath(new URL(file, import.meta.url));

/** Returns `ask`, which resolves to the answer to one question and throws what the library raised, and `close`. */
export const startPython = () => {
  const child = spawn(beside(".venv/bin/python"), [beside("libraries.py")], { stdio: ["pipe", "pipe", "inherit"] });
  const waiting = [];
  let ended;
  const end = (why) => {
    ended = new Error(`libraries.py: ${why}`);
    waiting.splice(0).forEach(({ reject }) => reject(ended));
  };
  child.on("error", (error) => end(error.message));
  child.on("exit", (code) => end(`it ended with ${code}`));
  child.stdin.on("error", () => {}); // the handler of the exit reports the error
  createInterface(child.stdout).on("line", (line) => {
    const { value, error } = JSON.parse(line);
    const { resolve, reject } = waiting.shift();
    error === undefined ? resolve(value) : reject(new Error(error));
  });
  const ask = (question) => new Promise((resolve, reject) => {
    if (ended) return reject(ended);
    waiting.push({ resolve, reject });
    child.stdin.write(`${JSON.stringify(question)}\n`);
  });
  return { ask, close: () => child.stdin.end() };
};
