// Builds js-orders.wasm from plugin.js and the contract of the SDK. The file imports only the engine's functions.
import { readFile, writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const here = (path) => new URL(path, import.meta.url);
const [file = "plugin.js", out = "js-orders.wasm"] = process.argv.slice(2);
const { component } = await componentize(await readFile(file, "utf8"), {
  witPath: here("../../plugin-sdk/wit").pathname,
  worldName: "plugin",
  disableFeatures: ["stdio", "random", "clocks", "http", "fetch-event"],
});
await writeFile(out, component);
