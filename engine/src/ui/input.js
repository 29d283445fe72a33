// What people type: shortcuts, selected rows, fields that follow others. Every page works without it. It uses functions of live.js, which
// is loaded before it.
"use strict";

// ---- A new endpoint or plugin ----

// A new name follows the title of the endpoint, or the file of the plugin, until a name is typed.
const titled = document.querySelector("#f-title, .drop #f-file");
const nameField = document.getElementById("f-name");
if (titled && nameField && !nameField.value) {
  const follow = () => {
    const title = titled.files?.[0]?.name.replace(".wasm", "") ?? titled.value;
    const words = title.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").toLowerCase();
    nameField.value = words.replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 64);
  };
  titled.addEventListener("input", follow);
  nameField.addEventListener("input", () => titled.removeEventListener("input", follow));
}

// The preview of a webhook follows its form. The answer to an earlier request does not replace a later one.
const webhook = document.getElementById("webhook");
let asked = 0;
webhook?.addEventListener("change", async () => {
  const shown = document.getElementById("preview");
  if (!shown) return;
  const number = (asked += 1);
  const fields = new URLSearchParams(new FormData(webhook));
  fields.set("preview", "on");
  const { page } = await load(webhook.action, { method: "POST", body: fields });
  const fresh = page.getElementById("preview");
  if (fresh && number === asked) merge(shown, fresh);
});

// ---- Selected rows ----

/** Writes the number of selected rows into the button that acts on them. */
function count() {
  const button = document.querySelector("#bulk button");
  const number = document.querySelectorAll("input[form=bulk]:checked").length;
  if (button && number) button.querySelector("span").textContent = button.dataset.many.replace("%", number);
}

document.addEventListener("change", (event) => {
  if (event.target.matches("input[form=bulk]")) count();
});
document.addEventListener("merged", count);

// ---- Keys ----

const PAGES = { n: "/", e: "/events", d: "/deliveries", t: "/endpoints", p: "/plugins", s: "/sources" };
let isGoing = false;

/** Moves the focus to the next or previous row: to its link, or else to the row itself. */
function move(by) {
  const rows = [...document.querySelectorAll("[data-row]")];
  const here = rows.findIndex((row) => row.contains(document.activeElement));
  const row = rows[Math.min(Math.max(here + by, 0), rows.length - 1)];
  (row?.querySelector(".go") ?? row)?.focus();
}

/** Presses the button or link of a shortcut: in the focused row, else on the page. */
function press(selector) {
  const row = document.activeElement.closest("[data-row]");
  (row?.querySelector(selector) ?? main?.querySelector(selector))?.click();
}

const KEYS = {
  "/": () => document.getElementById("find")?.focus(),
  "?": () => (location.hash = location.hash === "#keys" ? "#main" : "#keys"),
  j: () => move(1),
  k: () => move(-1),
  r: () => press('form[action$="/retry"] button'),
  R: () => press('a[href*="ask=replay"]'),
  c: () => press("[data-copy]"),
  x: () => document.activeElement.closest("[data-row]")?.querySelector("input[form=bulk]")?.click(),
  ".": () => press(".bar .seg > :not([aria-current])"),
};

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && location.hash === "#keys") location.hash = "#main";
  const isTyping = event.target.closest?.("input:not([type=checkbox]), textarea, select, [contenteditable]");
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || body.dataset.keys !== "on") return;
  if (isGoing && PAGES[event.key]) location.assign(PAGES[event.key]);
  isGoing = event.key === "g";
  if (event.key === "Enter" && event.target.matches?.(".step")) event.target.querySelector(".peek")?.click();
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});
