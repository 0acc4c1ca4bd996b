// The page keeps the tokens of its operations in the browser's storage, so they survive a restart of
// the server, a switch to another server, and closing the page.

const SIZES = [[1, 1024], [2, 2048], [4, 8192], [8, 16384]];
const STORE = "vms.tasks";
const KEPT = 20; // operations to keep

const at = (id) => document.getElementById(id);
const copyOf = (id) => at(id).content.firstElementChild.cloneNode(true);
const sizeText = (cores, ram) =>
  `${cores} CPU${cores > 1 ? "s" : ""}, ${ram >= 1024 ? `${ram / 1024} GB` : `${ram} MB`}`;

let tasks = JSON.parse(localStorage.getItem(STORE) ?? "[]"); // newest first
let source = null;

// --- requests ----------------------------------------------------------------------------------

async function send(method, path, body) {
  const response = await fetch(path, {
    method,
    headers: body ? { "Content-Type": "application/json" } : {},
    body: body ? JSON.stringify(body) : undefined,
  });
  const content = await response.json();
  if (!response.ok) throw new Error(messageOf(content));
  return content;
}

function messageOf(content) {
  if (typeof content.error === "string") return content.error;
  if (Array.isArray(content.detail)) return content.detail.map((item) => item.msg).join("; ");
  return String(content.detail ?? "The request failed without a reason.");
}

async function start(name, method, path, body) {
  at("refusal").hidden = true;
  try {
    const accepted = await send(method, path, body);
    tasks.unshift({ status: "running", history: [], ...accepted, name });
    tasks.length = Math.min(tasks.length, KEPT);
    keep();
    listen();
  } catch (error) {
    const lost = error instanceof TypeError; // fetch's connection error
    at("refusal").textContent = lost
      ? "The response was lost. Check the fleet before you try again."
      : error.message;
    at("refusal").hidden = false;
  }
}

// --- events ------------------------------------------------------------------------------------

function listen() {
  source?.close();
  const query = new URLSearchParams();
  for (const task of tasks) {
    if (isOver(task)) continue;
    // The newest token includes what was observed, for a server that does not have this task.
    task.token = task.next_token ?? task.token;
    task.before = statesOf(task);
    task.history = [];
    query.append("task", task.token);
  }
  source = new EventSource(`/api/events?${query}`);
  source.addEventListener("fleet", (event) => showFleet(JSON.parse(event.data)));
  source.addEventListener("task", (event) => {
    const { name, ...update } = JSON.parse(event.data);
    const task = tasks.find(({ token }) => token === update.token);
    if (!task || isOver(task)) return;
    Object.assign(task, update, { name: task.name ?? name });
    keep();
  });
  source.onopen = () => showLink("live");
  source.onerror = () => {
    showLink("connecting");
    // The browser would reconnect itself, but with the old tokens.
    source.close();
    setTimeout(listen, 500);
  };
}

// The states observed by all servers, one after another.
function statesOf({ before = [], history = [] }) {
  const all = [...before, ...history];
  return all.filter(({ state }, index) => state !== all[index - 1]?.state);
}

const isOver = (task) => task.status === "done" || task.status === "failed";

function keep() {
  localStorage.setItem(STORE, JSON.stringify(tasks));
  showTasks();
}

// --- rendering ---------------------------------------------------------------------------------

function showLink(state) {
  at("link").dataset.state = state;
  at("link").textContent = state;
}

function showFleet({ vms, problem }) {
  at("problem").textContent = problem ?? "";
  at("problem").hidden = !problem;
  at("empty").hidden = vms.length > 0;
  const counts = Map.groupBy(vms, (vm) => vm.state);
  at("summary").textContent = [...counts].map(([state, all]) => `${all.length} ${state}`).join(", ");
  const rows = new Map([...at("fleet").children].map((row) => [row.dataset.id, row]));
  vms.forEach((vm, index) => {
    const row = rows.get(vm.id) ?? newRow(vm);
    rows.delete(vm.id);
    showRow(row, vm);
    // Moving a row would close an open menu in it.
    if (at("fleet").children[index] !== row) {
      at("fleet").insertBefore(row, at("fleet").children[index] ?? null);
    }
  });
  for (const row of rows.values()) row.remove();
}

function newRow(vm) {
  const row = copyOf("vm");
  row.dataset.id = vm.id;
  const path = `/api/vms/${encodeURIComponent(vm.id)}`;
  const name = () => row.querySelector(".name").textContent;
  const select = row.querySelector("select");
  select.add(new Option("Resize…", ""));
  for (const [cores, ram] of SIZES) select.add(new Option(sizeText(cores, ram), `${cores} ${ram}`));
  select.addEventListener("change", () => {
    const [cores, ram] = select.value.split(" ").map(Number);
    select.value = "";
    start(name(), "POST", `${path}/resize`, { cores, ram });
  });
  row.querySelector(".delete").addEventListener("click", () => {
    if (confirm(`Delete ${name()}?`)) start(name(), "DELETE", path);
  });
  return row;
}

function showRow(row, vm) {
  const set = (selector, text) => {
    const element = row.querySelector(selector);
    if (element.textContent !== text) element.textContent = text;
  };
  set(".name", vm.name ?? vm.id);
  set(".state", vm.state);
  set(".size", sizeText(vm.cores, vm.ram));
  set(".address", vm.address ?? "");
  row.querySelector(".state").dataset.state = vm.state;
  for (const control of row.querySelectorAll("select, button")) {
    control.disabled = vm.state === "deleting";
  }
}

function showTasks() {
  at("idle").hidden = tasks.length > 0;
  at("tasks").replaceChildren(...tasks.map((task) => {
    const item = copyOf("task");
    item.dataset.status = task.status;
    item.querySelector(".operation").textContent = task.operation ?? "create";
    item.querySelector(".name").textContent = task.name ?? task.vm_id ?? "";
    item.querySelector(".states").textContent = statesOf(task)
      .map(({ state, elapsed }) => `${state} ${elapsed} s`).join(" → ");
    item.querySelector(".outcome").textContent = outcomeOf(task);
    return item;
  }));
}

function outcomeOf(task) {
  switch (task.status) {
    case "done": return `done, ${task.evidence}`;
    case "running": return "in progress";
    case "reconciling": return "response lost; looking for the VM";
    default: return task.error ?? task.status;
  }
}

// --- start -------------------------------------------------------------------------------------

const form = at("new");
for (const [cores, ram] of SIZES) form.size.add(new Option(sizeText(cores, ram), `${cores} ${ram}`));
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const [cpus, ram] = form.size.value.split(" ").map(Number);
  const name = form.name.value;
  const button = form.querySelector("button");
  button.disabled = true;
  await start(name, "POST", "/api/vms", { name, cpus, ram });
  button.disabled = false;
  if (at("refusal").hidden) form.name.value = "";
});
showTasks();
listen();
