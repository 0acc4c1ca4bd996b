// The page holds the tokens of what it asked for, in the browser's storage. So nothing is lost when
// a server is restarted, when it is another one that answers, or when the page is closed.

const SIZES = [[1, 1024], [2, 2048], [4, 8192], [8, 16384]];
const STORE = "machines.tasks";
const KEPT = 20; // operations to remember

const at = (id) => document.getElementById(id);
const copyOf = (id) => at(id).content.firstElementChild.cloneNode(true);
const sizeText = (cores, ram) =>
  `${cores} CPU${cores > 1 ? "s" : ""}, ${ram >= 1024 ? `${ram / 1024} GB` : `${ram} MB`}`;

let tasks = JSON.parse(localStorage.getItem(STORE) ?? "[]"); // the newest first
let source = null;

// --- asking ------------------------------------------------------------------------------------

async function ask(method, path, body) {
  const answer = await fetch(path, {
    method,
    headers: body ? { "Content-Type": "application/json" } : {},
    body: body ? JSON.stringify(body) : undefined,
  });
  const content = await answer.json();
  if (!answer.ok) throw new Error(wordsOf(content));
  return content;
}

function wordsOf(content) {
  if (typeof content.error === "string") return content.error;
  if (Array.isArray(content.detail)) return content.detail.map((one) => one.msg).join("; ");
  return String(content.detail ?? "The service refused, and did not say why.");
}

async function start(name, method, path, body) {
  at("refusal").hidden = true;
  try {
    const accepted = await ask(method, path, body);
    tasks.unshift({ status: "running", history: [], ...accepted, name });
    tasks.length = Math.min(tasks.length, KEPT);
    keep();
    listen();
  } catch (error) {
    const lost = error instanceof TypeError; // what fetch says of a connection
    at("refusal").textContent = lost
      ? "The answer was lost. Look at the fleet before you try again."
      : error.message;
    at("refusal").hidden = false;
  }
}

// --- listening ---------------------------------------------------------------------------------

function listen() {
  source?.close();
  const asked = new URLSearchParams();
  for (const task of tasks) {
    if (isOver(task)) continue;
    // The newest token carries what was seen, for a server that never saw this task.
    task.token = task.next_token ?? task.token;
    task.before = wayOf(task);
    task.history = [];
    asked.append("task", task.token);
  }
  source = new EventSource(`/api/events?${asked}`);
  source.addEventListener("fleet", (event) => showFleet(JSON.parse(event.data)));
  source.addEventListener("task", (event) => {
    const { name, ...seen } = JSON.parse(event.data);
    const task = tasks.find((one) => one.token === seen.token);
    if (!task || isOver(task)) return;
    Object.assign(task, seen, { name: task.name ?? name });
    keep();
  });
  source.onopen = () => showLink("live");
  source.onerror = () => {
    showLink("connecting");
    // The browser would connect again by itself, but with the tokens of the first time.
    source.close();
    setTimeout(listen, 500);
  };
}

// What was seen by all servers that were asked, one after the other.
function wayOf({ before = [], history = [] }) {
  const way = [...before, ...history];
  return way.filter(({ state }, place) => state !== way[place - 1]?.state);
}

const isOver = (task) => task.status === "done" || task.status === "failed";

function keep() {
  localStorage.setItem(STORE, JSON.stringify(tasks));
  showTasks();
}

// --- showing -----------------------------------------------------------------------------------

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
  vms.forEach((vm, place) => {
    const row = rows.get(vm.id) ?? newRow(vm);
    rows.delete(vm.id);
    showRow(row, vm);
    // Moving a row would close a menu that is open in it.
    if (at("fleet").children[place] !== row) {
      at("fleet").insertBefore(row, at("fleet").children[place] ?? null);
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
  const set = (place, text) => {
    const element = row.querySelector(place);
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
    item.querySelector(".operation").textContent = task.operation ?? "look for";
    item.querySelector(".name").textContent = task.name ?? task.vm_id ?? "";
    item.querySelector(".way").textContent = wayOf(task)
      .map(({ state, elapsed }) => `${state} ${elapsed} s`).join(" → ");
    item.querySelector(".outcome").textContent = outcomeOf(task);
    return item;
  }));
}

function outcomeOf(task) {
  switch (task.status) {
    case "done": return `done, ${task.evidence}`;
    case "running": return "under way";
    case "in doubt": return "the answer was lost; looking for the machine";
    default: return task.error ?? task.status;
  }
}

// --- beginning ---------------------------------------------------------------------------------

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
