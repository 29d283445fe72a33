// Keeps a page up to date and shows answers in place. Every page works without it: links load pages, and forms return to them.
//
// A signal of the page's event stream names what changed. Then the page is fetched again, and each region that follows this kind
// of change ([data-live]) is merged: elements with an id are matched by id, others by position. Unchanged elements are not touched.
"use strict";

const root = document.documentElement;
const body = document.body;
const main = document.getElementById("main");
root.classList.add("scripted");

// ---- Merging ----

/** Makes `old` like `fresh`, and touches only what differs. */
function merge(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.data = fresh.data;
    return;
  }
  const isTyped = old === document.activeElement && /^(INPUT|TEXTAREA|SELECT)$/.test(old.tagName);
  for (const { name } of [...old.attributes]) {
    const isOpened = name === "open" && old.tagName === "DETAILS";
    if (!fresh.hasAttribute(name) && !isOpened) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (!(isTyped && name === "value") && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  mergeChildren(old, fresh);
}

function mergeChildren(old, fresh) {
  const known = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
  let place = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    // An element whose id occurs further down does not match an element without an id, or with another id.
    let match = next.id ? known.get(next.id) : undefined;
    if (!match && place && !place.id && !next.id && place.nodeName === next.nodeName) match = place;
    if (match) {
      if (match === place) place = place.nextSibling;
      else old.insertBefore(match, place);
      merge(match, next);
    } else {
      const added = document.importNode(next, true);
      old.insertBefore(added, place);
      if (added.matches?.("tr[data-row]") && old.children.length > 1) added.classList.add("new");
    }
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

/** Changes the page. If this removes the focused element, such as a pressed button, its row gets the focus. */
function keepFocus(change) {
  const id = document.activeElement?.closest("[data-row][id]")?.id;
  change();
  const row = id && document.activeElement === body ? document.getElementById(id) : null;
  (row?.querySelector(".go") ?? row)?.focus({ preventScroll: true });
}

// ---- Loading ----

/** Fetches a page and returns it as a document, with its address after redirects. */
async function load(address, options) {
  const slow = setTimeout(() => body.classList.add("busy"), 300);
  try {
    const answer = await fetch(address, { headers: { accept: "text/html" }, ...options });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    return { page, address: answer.url, isPage: page.getElementById("main") !== null && page.getElementById("rail") !== null };
  } finally {
    clearTimeout(slow);
    body.classList.remove("busy");
  }
}

/** Shows the answer to a click or a form in place. If the answer is another page, opens it. */
async function answer(address, options) {
  answers += 1;
  loading += 1;
  try {
    const loaded = await load(address, options);
    const to = new URL(loaded.address);
    if (!loaded.isPage || (to.pathname !== location.pathname && !options)) {
      location.assign(loaded.address);
      return;
    }
    if (to.pathname === location.pathname) history.replaceState(null, "", to.pathname + to.search + location.hash);
    keepFocus(() => mergeChildren(main, loaded.page.getElementById("main")));
    said(main.querySelector(".said, .wrong h1")?.textContent);
  } finally {
    loading -= 1;
    refresh();
  }
}

/** Announces a text to screen readers. */
function said(text) {
  if (text) document.getElementById("said").textContent = text;
}

// ---- Live regions ----

let lastHeard = Date.now();
// Kinds of changes that were signalled and are not shown yet. A page that is being loaded may be older than the signal, so these
// kinds wait until no page is being loaded.
let waiting = new Set();
let loading = 0;
// Number of clicks and forms so far. A page that was fetched before the last of their answers is outdated, and is not shown.
let answers = 0;

/** Returns whether part of an element's text is selected. */
function isSelected(element) {
  const selection = getSelection();
  return !selection.isCollapsed && element.contains(selection.anchorNode);
}

/** Returns whether a list must not move now, because it is hovered or focused, or because part of its text is selected. */
function isHeld(region) {
  return region.matches(":hover") || region.contains(document.activeElement) || isSelected(region);
}

function mergeRegion(region, fresh) {
  mergeAny(region, fresh);
  document.dispatchEvent(new Event("merged"));
}

function mergeAny(region, fresh) {
  const hold = region.dataset.hold;
  // A list that is shown whole has other content below it, so its first and its last row wait, too.
  const isWhole = hold === "whole";
  const isEmpty = !isWhole && !region.querySelector("[data-row]");
  if (hold === undefined || isEmpty || !(isWhole || hold === "always" || isHeld(region))) return merge(region, fresh);
  // Visible rows change in place, even the row under the pointer, which has to show what its button did. New rows wait.
  let added = 0;
  const rows = [...fresh.querySelectorAll("[data-row][id]")];
  for (const row of rows) {
    const shown = document.getElementById(row.id);
    if (!shown) added += 1;
    else if (!isSelected(shown)) merge(shown, row);
  }
  let gone = 0;
  if (isWhole) {
    const ids = new Set(rows.map((row) => row.id));
    for (const shown of region.querySelectorAll("[data-row][id]")) {
      const isGone = !ids.has(shown.id);
      shown.classList.toggle("gone", isGone);
      if (isGone) gone += 1;
    }
  }
  const held = region.querySelector(".held-row");
  if (!held) return;
  const { one, many, none } = held.dataset;
  const number = isWhole ? rows.length : added;
  const words = (number === 0 && none) || (number === 1 && one) || many.replace("%", number);
  if (added || gone) {
    held.hidden = false;
    if (held.textContent !== words) held.textContent = words;
    held.onclick = () => {
      if (!isWhole) region.dataset.hold = "";
      held.blur();
      merge(region, fresh);
    };
  } else if (isWhole) {
    held.hidden = true;
  }
}

/** Fetches this page for the regions that follow one of these kinds. */
async function refresh() {
  if (loading || document.hidden || !waiting.size) return;
  const kinds = waiting;
  waiting = new Set();
  const follows = (region) => region.dataset.live.split(" ").some((kind) => kinds.has(kind));
  if (![...document.querySelectorAll("main [data-live]")].some(follows)) return;
  const seen = answers;
  const wait = () => kinds.forEach((kind) => waiting.add(kind));
  let isLost = false;
  loading += 1;
  try {
    const loaded = await load(location.href, { signal: AbortSignal.timeout(30_000) });
    if (answers !== seen) return wait();
    if (!loaded.isPage) return;
    keepFocus(() => {
      for (const region of document.querySelectorAll("[data-live][id]")) {
        const fresh = loaded.page.getElementById(region.id);
        if (fresh && follows(region)) mergeRegion(region, fresh);
      }
    });
    // A page of another kind has replaced this one, such as Now after the first event.
    const here = [...main.children].map((child) => child.id).join();
    const there = [...loaded.page.getElementById("main").children].map((child) => child.id).join();
    if (here !== there && !main.querySelector(".wrong")) mergeChildren(main, loaded.page.getElementById("main"));
  } catch {
    // The next message of the stream tries again.
    isLost = true;
    wait();
  } finally {
    loading -= 1;
    root.dataset.refreshed = String(Number(root.dataset.refreshed ?? 0) + 1);
    if (!isLost) refresh();
  }
}

function listen() {
  const stream = new EventSource("/live?" + body.dataset.live);
  const live = document.getElementById("live");
  const word = live.querySelector(".word");
  const normal = word.textContent;
  let lostAt = null;
  const heard = () => {
    lastHeard = Date.now();
    if (lostAt !== null) for (const kind of ["events", "deliveries", "plugins", "sources"]) waiting.add(kind);
    lostAt = null;
    root.dataset.stream = "open";
    live.dataset.s = "ok";
    word.textContent = normal;
    refresh();
  };
  stream.addEventListener("pulse", heard);
  stream.addEventListener("changed", (message) => {
    for (const kind of message.data.split(" ")) waiting.add(kind);
    heard();
  });
  stream.onerror = () => {
    if (lostAt === null) {
      lostAt = new Date(lastHeard);
      live.dataset.s = "wait";
      word.textContent = body.dataset.lost.replace("%", lostAt.toLocaleTimeString(root.lang, { hour: "2-digit", minute: "2-digit" }));
      said(word.textContent);
    }
    root.dataset.stream = "lost";
    // The browser does not reopen a refused stream.
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
  };
  const age = document.getElementById("live-age");
  setInterval(() => {
    const seconds = ((Date.now() - lastHeard) / 1000).toLocaleString(root.lang, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
    age.textContent = lostAt === null ? body.dataset.ago.replace("%", seconds + " s") : "";
  }, 500);
  document.addEventListener("visibilitychange", refresh);
  addEventListener("pagehide", () => stream.close());
}

// ---- Clicks and forms ----

document.addEventListener("click", async (event) => {
  const copy = event.target.closest("[data-copy]");
  if (copy) {
    await navigator.clipboard.writeText(copy.dataset.copy);
    copy.classList.add("done");
    said(body.dataset.copied);
    setTimeout(() => copy.classList.remove("done"), 1500);
    return;
  }
  // A time is above the link that covers its row, so that its full form is shown on hover.
  event.target.closest("tr[data-row] time")?.closest("tr").querySelector(".go")?.click();
  const link = event.target.closest("a[data-in-place]");
  if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
    event.preventDefault();
    answer(link.href);
  }
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post" || form.hasAttribute("data-whole") || form.enctype === "multipart/form-data") return;
  event.preventDefault();
  for (const button of form.querySelectorAll("button")) button.setAttribute("aria-disabled", "true");
  answer(form.action, { method: "POST", body: new URLSearchParams(new FormData(form, event.submitter)) });
});

// A page with a secret must not be shown again from the browser's back-forward cache.
addEventListener("pageshow", (event) => {
  if (event.persisted && main?.querySelector("[data-once]")) location.reload();
});

// ---- Start ----

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
if (zone && zone !== body.dataset.zone) {
  document.cookie = `innesco_zone=${zone}; path=/; max-age=31536000; samesite=lax`;
  if (main && document.getElementById("rail") && !main.querySelector("[data-once]")) load(location.href).then(({ page, isPage }) => isPage && mergeChildren(main, page.getElementById("main")));
}
const again = document.getElementById("again");
if (again && main.querySelector(".wrong")) setTimeout(() => location.reload(), again.dataset.again * 1000);
// Loads a page about unfinished work again, until it no longer contains the element `again`.
setInterval(() => document.getElementById("again") && refresh(waiting.add("again")), 1000);
if (body.hasAttribute("data-live") && document.getElementById("live")) listen();
