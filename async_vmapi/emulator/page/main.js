// The page of an emulator. It reads all when it connects, and then what the events change.

import { refreshClock, setUpClock, showClock } from "./clock.js";
import { call, forgetToken, listen, Refused, setToken, takeToken } from "./connection.js";
import { close, isShown, open, recheckDetail, refreshDetail, setUpDetail, stretchGraph } from "./detail.js";
import { at, setText, sleep } from "./dom.js";
import { refreshFaults, setUpFaults, showFaults } from "./faults.js";
import { addRequest, KEPT, setUpRequests, showRequests } from "./requests.js";
import { changeVM, isWithDeleted, setUpVMs, showVMs } from "./vms.js";

const PAUSES = [250, 500, 1000, 2000]; // ms before each attempt to connect again
const CONTROLS = ["add-controls", "clock-controls", "fault-controls", "detail-controls"];

const LINKS = {
  connecting: "connecting",
  live: "connected",
  offline: "not connected",
  none: "no token",
  refused: "wrong token",
};

function showLink(link, reason = "") {
  const node = at("link");
  node.dataset.link = link;
  setText(node, LINKS[link]);
  document.body.dataset.link = link;
  at("offline").hidden = link !== "offline";
  setText(at("offline"), reason);
  for (const id of CONTROLS) at(id).disabled = link !== "live";
  document.title = link === "live" ? "Emulator" : `(${LINKS[link]}) Emulator`;
}

let loading = null;

// Events wait for it: those after what it reads would otherwise be undone by it.
function load() {
  loading = loadAll().finally(() => (loading = null));
  return loading;
}

async function loadAll() {
  const deleted = isWithDeleted();
  const [status, vms, requests, faults] = await Promise.all([
    call("GET", ""),
    call("GET", deleted ? "/vms?deleted=true" : "/vms"),
    call("GET", `/requests?limit=${KEPT}`),
    call("GET", "/faults"),
  ]);
  showVMs(vms.vms, status.deleted);
  showRequests(requests.requests);
  showFaults(faults);
  showClock(status.clock);
  recheckDetail();
}

const HANDLERS = {
  vm(content) {
    changeVM(content);
    if (isShown(content.id)) refreshDetail();
    refreshClock();
  },
  request(content) {
    addRequest(content);
    if (content.fault !== null) refreshFaults();
  },
  clock(content) {
    showClock(content);
    stretchGraph();
  },
  async changed({ what }) {
    if (what === "reset") await load();
    if (what === "faults") refreshFaults();
    if (what === "settings") refreshDetail();
  },
  lost: load,
};

// Follows the emulator until the connection ends.
async function follow() {
  const { events, stop } = await listen();
  try {
    await load();
    showLink("live");
    at("main").hidden = false;
    for await (const { kind, content } of events) {
      if (loading) await loading;
      await HANDLERS[kind]?.(content);
    }
  } finally {
    stop();
  }
}

// Returns when a token was given.
function askForToken(reason) {
  showLink(reason ? "refused" : "none");
  at("main").hidden = true;
  at("access").hidden = false;
  setText(at("access-reason"), reason);
  at("token").focus();
  return new Promise((resolve) => {
    at("access").onsubmit = (event) => {
      event.preventDefault();
      setToken(at("token").value);
      resolve();
    };
    // The URL that the emulator has printed, pasted into this tab.
    window.onhashchange = () => takeToken() && resolve();
  }).finally(() => {
    at("token").value = "";
    at("access").hidden = true;
    window.onhashchange = null;
  });
}

async function run() {
  let attempts = 0;
  if (!takeToken()) await askForToken("");
  for (;;) {
    let reason = "The emulator is not running, or has ended the connection.";
    const began = performance.now();
    try {
      await follow();
    } catch (error) {
      if (error instanceof Refused && error.status === 401) {
        forgetToken();
        await askForToken("The emulator refuses this token. It has a new one after each start.");
        attempts = 0;
        continue;
      }
      if (error instanceof Refused) reason = error.message;
    }
    if (performance.now() - began > 5000) attempts = 0;
    showLink("offline", `${reason} Trying again; what is shown may be old.`);
    await sleep(PAUSES[Math.min(attempts++, PAUSES.length - 1)]);
  }
}

setUpVMs((id) => (isShown(id) ? close() : open(id)), load);
setUpDetail();
setUpClock();
setUpFaults();
setUpRequests();
setText(at("server"), location.host);
showLink("connecting");
run();
