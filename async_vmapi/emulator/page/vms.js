// The list of VMs. A VM has one row as long as it exists, and an event changes only its cells.

import { call } from "./connection.js";
import { at, copyOf, draw, drawSoon, element, kindOf, number, setData, setText, size, wordFor } from "./dom.js";
import { act } from "./notices.js";

const KINDS = ["good", "off", "busy", "bad", "gone"]; // in the order of the states' buttons

const vms = new Map(); // by id, in the order of creation
const rows = new Map();
const changed = new Set(); // ids
let selected = null;
let chosen; // the state to show; undefined for all, null for "deleted"
let deleted = 0;
let shownAt = -Infinity; // on the cloud's clock
let withDeleted = false;
let select = () => {};
let reload = () => {};

export const find = (id) => vms.get(id);
export const isWithDeleted = () => withDeleted;

export function showVMs(content, count) {
  for (const id of vms.keys()) changed.add(id);
  vms.clear();
  deleted = count;
  shownAt = content[0]?.at ?? -Infinity;
  for (const vm of content) show(vm);
  draw(drawVMs);
}

export function changeVM(vm) {
  // It happened before all VMs were read.
  if (vm.at < shownAt) return;
  if (vm.state === null && (vms.get(vm.id)?.state ?? null) !== null) deleted += 1;
  show(vm);
  drawSoon(drawVMs);
}

function show(vm) {
  if (vm.state === null && !withDeleted) vms.delete(vm.id);
  else vms.set(vm.id, vm);
  changed.add(vm.id);
}

export function markSelected(id) {
  for (const each of [selected, id]) if (each !== null) changed.add(each);
  selected = id;
  draw(drawVMs);
}

// The list is less high once a VM is shown below it.
export function showRow(id) {
  rows.get(id)?.scrollIntoView({ block: "nearest" });
}

export function focusRow(id) {
  const button = rows.get(id)?.querySelector("button");
  (button ?? at("filter")).focus();
}

// --- drawing -----------------------------------------------------------------------------------

function drawVMs() {
  const added = document.createDocumentFragment();
  for (const id of changed) {
    const vm = vms.get(id);
    if (vm === undefined) {
      rows.get(id)?.remove();
      rows.delete(id);
      continue;
    }
    let row = rows.get(id);
    if (row === undefined) {
      row = copyOf("vm-row");
      row.dataset.id = id;
      rows.set(id, row);
      added.append(row);
    }
    fill(row, vm);
  }
  changed.clear();
  at("vms").append(added);
  drawStates();
  drawEmpty();
}

function fill(row, vm) {
  const [name, state, sizeCell, address] = row.cells;
  setText(name.firstElementChild, vm.label);
  setText(state.firstElementChild, wordFor(vm.state));
  setData(state.firstElementChild, "kind", kindOf(vm.state));
  setText(state.lastElementChild, note(vm));
  setText(sizeCell, size(vm));
  setText(address, vm.address ?? "");
  if (row.classList.contains("selected") !== (vm.id === selected)) {
    row.classList.toggle("selected");
    name.firstElementChild.setAttribute("aria-pressed", vm.id === selected);
  }
  if (row.hidden === matches(vm)) row.hidden = !row.hidden;
}

function note(vm) {
  if (vm.operations.length > 0) {
    const more = vm.operations.length - 1;
    return vm.operations[0].kind.replace("_", " ") + (more > 0 ? ` +${more}` : "");
  }
  return vm.state !== null && !vm.visible ? "not shown yet" : "";
}

function matches(vm) {
  if (chosen !== undefined && vm.state !== chosen) return false;
  const words = at("filter").value.toLowerCase().split(/\s+/);
  const kinds = vm.operations.map((operation) => operation.kind).join(" ");
  const text = `${vm.label} ${vm.address ?? ""} ${vm.id} ${kinds}`.toLowerCase();
  return words.every((word) => text.includes(word));
}

const rank = (state) => KINDS.indexOf(kindOf(state)) + wordFor(state);

function drawStates() {
  const counts = new Map();
  for (const { state } of vms.values()) {
    if (state !== null) counts.set(state, (counts.get(state) ?? 0) + 1);
  }
  if (chosen !== undefined && !counts.has(chosen)) counts.set(chosen, 0);
  if (deleted > 0 || withDeleted) counts.set(null, deleted);
  const chips = at("states");
  for (const chip of [...chips.children]) if (!counts.has(chip.state)) chip.remove();
  const order = [...counts].sort(([one], [other]) => rank(one).localeCompare(rank(other)));
  for (const [index, [state, count]] of order.entries()) {
    let chip = [...chips.children].find((each) => each.state === state);
    if (chip === undefined) {
      chip = element("button", "chip");
      chip.type = "button";
      chip.state = state;
      chip.append(element("span", "state", wordFor(state)), element("b"));
      chip.firstElementChild.dataset.kind = kindOf(state);
      chip.addEventListener("click", () => choose(state));
      chips.insertBefore(chip, chips.children[index] ?? null);
    }
    setText(chip.lastElementChild, number(count));
    chip.setAttribute("aria-pressed", chosen === state);
  }
}

function drawEmpty() {
  const visible = at("vms").querySelector("tr:not([hidden])");
  at("no-vms").hidden = vms.size > 0 || chosen === null;
  at("no-match").hidden = visible !== null || !at("no-vms").hidden;
  // One row can be reached with Tab, the others from it with the arrow keys.
  const reached = at("vms").querySelector("button[tabindex='0']");
  if (visible !== null && (reached === null || reached.closest("tr").hidden)) reach(visible);
}

function drawAgain() {
  for (const id of vms.keys()) changed.add(id);
  draw(drawVMs);
}

// --- acting ------------------------------------------------------------------------------------

function choose(state) {
  chosen = chosen === state ? undefined : state;
  const wanted = chosen === null;
  if (wanted !== withDeleted) {
    withDeleted = wanted;
    act(reload);
  }
  drawAgain();
}

function reach(row) {
  at("vms").querySelector("button[tabindex='0']")?.setAttribute("tabindex", "-1");
  const button = row.querySelector("button");
  button.tabIndex = 0;
  return button;
}

function move(event) {
  const row = event.target.closest("tr");
  const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
  if (row === null || step === undefined) return;
  event.preventDefault();
  let other = row[step];
  while (other?.hidden) other = other[step];
  if (other) reach(other).focus();
}

export function setUpVMs(onSelect, onReload) {
  select = onSelect;
  reload = onReload;
  at("filter").addEventListener("input", drawAgain);
  at("vms").addEventListener("keydown", move);
  at("vms").addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    reach(row);
    select(row.dataset.id);
  });
  at("add").addEventListener("click", () =>
    act(() => call("POST", "/vms", { name: "web", count: 3 })),
  );
}
