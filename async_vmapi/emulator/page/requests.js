// The latest requests of clients, the newest first.

import { at, copyOf, draw, drawSoon, hour, seconds, setText } from "./dom.js";
import { wordsFor } from "./faults.js";
import { find } from "./vms.js";

export const KEPT = 500;
const SHOWN = 100; // which a browser lays out again with each new one
const RATE = 5_000; // ms
const ID = /([0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g;

let entries = []; // oldest first
let fresh = []; // not drawn yet
let numbers = new Set();
let selected = null;
let arrivals = []; // when the latest ones were received

export function showRequests(content) {
  entries = content;
  numbers = new Set(content.map((entry) => entry.number));
  drawAgain();
}

export function addRequest(entry) {
  // It may be in what was read after the stream began.
  if (numbers.has(entry.number)) return;
  arrivals.push(performance.now());
  numbers.add(entry.number);
  entries.push(entry);
  fresh.push(entry);
  if (entries.length > 2 * KEPT) {
    for (const old of entries.splice(0, entries.length - KEPT)) numbers.delete(old.number);
    fresh = fresh.slice(-KEPT);
  }
  drawSoon(drawFresh);
}

export function showRequestsOf(id) {
  selected = id;
  at("only").hidden = id === null;
  if (at("only-vm").checked) drawAgain();
}

function drawAgain() {
  at("requests").replaceChildren();
  fresh = [...entries];
  draw(drawFresh);
}

function drawFresh() {
  const list = at("requests");
  const shown = fresh.filter(matches).slice(-SHOWN).reverse();
  fresh = [];
  list.prepend(...shown.map(itemOf));
  while (list.children.length > SHOWN) list.lastElementChild.remove();
  at("no-requests").hidden = list.children.length > 0;
  setText(at("no-requests"), entries.length > 0 ? "No request matches." : "No requests yet.");
}

const failed = (entry) => entry.status === null || entry.status >= 400 || entry.fault !== null;

function matches(entry) {
  if (at("failed").checked && !failed(entry)) return false;
  return selected === null || !at("only-vm").checked || entry.vm === selected;
}

function itemOf(entry) {
  const item = copyOf("request-entry");
  const part = (name) => item.querySelector(name);
  part(".status").textContent = entry.status ?? "lost";
  part(".status").dataset.kind =
    entry.status === null || entry.status >= 500 ? "bad" : entry.status >= 400 ? "busy" : "good";
  part(".method").textContent = entry.method;
  part(".path").textContent = entry.path.replace(ID, "$1…");
  part(".path").title = entry.path;
  const label = entry.vm === null ? undefined : find(entry.vm)?.label;
  part(".vm").textContent = label ?? "";
  part(".who").textContent =
    `${hour(entry.date)} · ${entry.call} · ${entry.client} waited ${seconds(entry.duration)}`;
  part(".who").title = entry.agent;
  part(".tag").textContent = entry.fault === null ? "" : `fault: ${wordsFor(entry.fault)}`;
  return item;
}

export function setUpRequests() {
  for (const id of ["failed", "only-vm"]) at(id).addEventListener("change", drawAgain);
  setInterval(() => {
    const since = performance.now() - RATE;
    arrivals = arrivals.filter((time) => time > since);
    const rate = (arrivals.length / RATE) * 1000;
    setText(at("rate"), rate > 0 ? `${+rate.toFixed(rate < 10 ? 1 : 0)} per second` : "");
  }, 500);
}
