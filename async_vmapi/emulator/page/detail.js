// One VM: what it is, and what happened to it, as a timeline.

import { isPaused, now } from "./clock.js";
import { call, Refused } from "./connection.js";
import { at, draw, element, hour, kindOf, seconds, setData, setText, size, throttled, wordFor } from "./dom.js";
import { act } from "./notices.js";
import { showRequestsOf } from "./requests.js";
import { find, focusRow, markSelected, showRow } from "./vms.js";

const SHOWN = 60; // entries in the graph; a list of more could not be read

let id = null;
let vm = null;
let history = [];

export const isShown = (other) => id === other;

export const refreshDetail = throttled(async () => {
  if (id === null) return;
  const wanted = id;
  try {
    const path = `/vms/${encodeURIComponent(wanted)}`;
    const [content, settings] = await Promise.all([
      call("GET", `${path}/history`),
      call("GET", `${path}/settings`),
    ]);
    if (id !== wanted) return;
    ({ vm, history } = content);
    at("acpi").checked = settings.acpi === "ignore";
    at("fail").checked = settings.fail_state !== null;
    draw(drawDetail);
  } catch (error) {
    // It was deleted in a cloud that was reset.
    if (error instanceof Refused && error.status === 404) close();
  }
}, 250);

// After all was read again. A VM that exists no more, without a delete, was in another cloud.
export function recheckDetail() {
  if (id !== null && vm?.state !== null && find(id) === undefined) close();
  else refreshDetail();
}

// The clock was moved, which may change nothing but how long a state lasts.
export function stretchGraph() {
  if (vm !== null) draw(drawGraph);
}

export function open(other) {
  id = other;
  markSelected(id);
  showRequestsOf(id);
  refreshDetail();
}

export function close() {
  const before = id;
  id = vm = null;
  at("detail").hidden = true;
  markSelected(null);
  showRequestsOf(null);
  return before;
}

function drawDetail() {
  if (vm === null) return;
  const isNew = at("detail").hidden;
  at("detail").hidden = false;
  setText(at("detail-title"), vm.label);
  setText(at("detail-state"), wordFor(vm.state));
  setData(at("detail-state"), "kind", kindOf(vm.state));
  at("detail-controls").disabled = vm.state === null;
  const spec = {
    Size: size(vm),
    Address: vm.address ?? "none yet",
    Zone: vm.zone,
    Template: vm.template ?? "none",
    Groups: vm.groups.join(", ") || "none",
    Id: vm.id,
  };
  const pairs = Object.entries(spec).map(([name, value]) => {
    const pair = element("div");
    pair.append(element("dt", "", name), element("dd", "", value));
    return pair;
  });
  at("spec").replaceChildren(...pairs);
  drawHistory();
  drawGraph();
  if (!isNew) return;
  showRow(id);
  at("detail-title").focus();
}

function wordsFor(entry) {
  if (entry.event === "state") {
    return entry.state === null ? "deleted" : `${entry.state}, ${size(entry)}`;
  }
  const outcome = entry.outcome === undefined ? "" : `: ${entry.outcome}`;
  return `${entry.operation.replace("_", " ")} ${entry.event}${outcome}`;
}

function drawHistory() {
  const shown = history.slice(-SHOWN);
  const items = shown.map((entry, index) => {
    const item = element("li");
    const time = element("time", "", hour(entry.date));
    time.dateTime = entry.date;
    const before = index > 0 ? entry.at - shown[index - 1].at : 0;
    const what = element("span", entry.event === "state" ? "state" : "operation", wordsFor(entry));
    if (entry.event === "state") what.dataset.kind = kindOf(entry.state);
    if (entry.outcome !== undefined) what.dataset.outcome = entry.outcome;
    item.append(time, what, element("span", "since", before > 0 ? `+${seconds(before)}` : ""));
    return item;
  });
  at("history").replaceChildren(...items);
}

// --- the graph ---------------------------------------------------------------------------------

function drawGraph() {
  if (vm === null) return;
  const shown = history.slice(-SHOWN);
  const end = Math.max(now(), shown.at(-1).at);
  const place = scale([...shown.map((entry) => entry.at), end]);
  const bars = [...stateBars(shown, end), ...operationBars(shown, end)].map((bar) => {
    const node = element("div", `bar ${bar.className}`, bar.text);
    Object.assign(node.dataset, bar.data);
    node.title = `${bar.text}, ${seconds(bar.to - bar.from)}`;
    node.style.left = `${place(bar.from)}%`;
    node.style.width = `${place(bar.to) - place(bar.from)}%`;
    node.style.top = `${bar.lane * 1.75}rem`;
    return node;
  });
  const lanes = 1 + Math.max(...bars.map((node) => parseFloat(node.style.top) / 1.75));
  at("graph").style.height = `${lanes * 1.75}rem`;
  at("graph").replaceChildren(...bars);
}

// Returns the place of a time, in percent. Long intervals are compressed: a VM takes a minute to be
// created, and may then be online for days.
function scale(times) {
  const sorted = [...new Set(times)].sort((a, b) => a - b);
  const places = new Map();
  let sum = 0;
  sorted.forEach((time, index) => {
    if (index > 0) sum += 1 + Math.log1p(time - sorted[index - 1]);
    places.set(time, sum);
  });
  return (time) => (sum > 0 ? (100 * places.get(time)) / sum : 100 * (time > sorted[0]));
}

function stateBars(shown, end) {
  const states = shown.filter((entry) => entry.event === "state");
  return states.flatMap((entry, index) => {
    const text = wordFor(entry.state);
    const bar = { from: entry.at, to: states[index + 1]?.at ?? end, text, lane: 0 };
    const data = { kind: kindOf(entry.state) };
    return bar.to > bar.from ? [{ ...bar, className: "state-bar", data }] : [];
  });
}

function operationBars(shown, end) {
  const operations = [];
  for (const entry of shown) {
    if (entry.event === "state") continue;
    if (entry.event === "accepted") operations.push({ kind: entry.operation, from: entry.at });
    const open = operations.find(
      (each) => each.kind === entry.operation && each.to === undefined && !(each.begun && entry.event === "started"),
    );
    if (open === undefined) continue; // it was accepted before what is shown
    if (entry.event === "started") open.begun = entry.at;
    if (entry.event === "finished") Object.assign(open, { to: entry.at, outcome: entry.outcome });
  }
  const free = []; // when each lane is free
  return operations.flatMap((operation) => {
    const { kind, from, outcome, to = end } = operation;
    if (to <= from) return [];
    let lane = free.findIndex((time) => time <= from);
    if (lane < 0) lane = free.length;
    free[lane] = to;
    const text = kind.replace("_", " ") + (outcome && outcome !== "done" ? `: ${outcome}` : "");
    return [{ from, to, text, lane: lane + 1, className: "operation-bar", data: { outcome: outcome ?? "open" } }];
  });
}

export function setUpDetail() {
  at("close").addEventListener("click", () => focusRow(close()));
  at("detail").addEventListener("keydown", (event) => {
    if (event.key === "Escape") focusRow(close());
  });
  const change = (settings) =>
    act(() => call("PATCH", `/vms/${encodeURIComponent(id)}/settings`, settings));
  at("acpi").addEventListener("change", () =>
    change({ acpi: at("acpi").checked ? "ignore" : "honour" }),
  );
  at("fail").addEventListener("change", () =>
    change({ fail_state: at("fail").checked ? "error" : null }),
  );
  setInterval(() => {
    if (!isPaused()) stretchGraph();
  }, 1000);
}
