// Functions for elements. Texts of clients become text only, never markup.

export const at = (id) => document.getElementById(id);
export const copyOf = (id) => at(id).content.firstElementChild.cloneNode(true);

export function element(name, className = "", text = "") {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

// Writes only what has changed, so that nothing else is laid out again.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setData(node, name, value) {
  if (node.dataset[name] !== value) node.dataset[name] = value;
}

const drawings = new Set();

// All that changes within a frame is drawn at once; nothing is drawn while the page is hidden.
export function draw(drawing) {
  if (drawings.size === 0) requestAnimationFrame(drawAll);
  drawings.add(drawing);
}

function drawAll() {
  const due = [...drawings];
  drawings.clear();
  for (const drawing of due) drawing();
}

const PACE = 50; // ms
const waiting = new Set();
let drawn = 0;

// For what clients do, which may be more often than anyone can see.
export function drawSoon(drawing) {
  if (waiting.size === 0) setTimeout(drawWaiting, Math.max(0, drawn + PACE - performance.now()));
  waiting.add(drawing);
}

function drawWaiting() {
  drawn = performance.now();
  for (const drawing of waiting) draw(drawing);
  waiting.clear();
}

// Returns a function that runs `action` soon, and not again while it runs or within `pause` ms.
export function throttled(action, pause) {
  let running = false;
  let again = false;
  return async function run() {
    again = true;
    if (running) return;
    running = true;
    while (again) {
      again = false;
      await action();
      await sleep(pause);
    }
    running = false;
  };
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export const number = (value) => value.toLocaleString("en");

export const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

export function size(vm) {
  const ram = vm.ram >= 1024 ? `${+(vm.ram / 1024).toFixed(1)} GB` : `${vm.ram} MB`;
  return `${plural(vm.cores, "core")}, ${ram}`;
}

export function seconds(value) {
  if (value < 0.01) return `${+(value * 1000).toFixed(1)} ms`;
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${+value.toFixed(1)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min ${Math.floor(value % 60)} s`;
  if (value < 86400) return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
  return `${Math.floor(value / 86400)} d ${Math.floor((value % 86400) / 3600)} h`;
}

// The hour of a date in UTC, as the emulator's dates are, to a tenth of a second.
export const hour = (date) => new Date(date).toISOString().slice(11, 21);

const KINDS = { online: "good", offline: "off", error: "bad", failed: "bad" };

// The kind of a state, which decides its colour.
export const kindOf = (state) => (state === null ? "gone" : (KINDS[state] ?? "busy"));

export const wordFor = (state) => state ?? "deleted";
