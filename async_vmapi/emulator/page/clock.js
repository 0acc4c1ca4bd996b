// The cloud's clock. Between two reports it is computed, as it runs evenly.

import { at, draw, hour, seconds, setText, throttled } from "./dom.js";
import { act } from "./notices.js";
import { call } from "./connection.js";

const TICK = 100; // ms

let clock = null;
let received = 0;

export function showClock(content) {
  clock = content;
  received = performance.now();
  const speed = at("speed");
  const value = String(clock.speed);
  if (![...speed.options].some((option) => option.value === value)) {
    speed.add(new Option(`${clock.speed}×`, value));
  }
  speed.value = value;
  draw(drawClock);
}

// Seconds on the cloud's clock.
export function now() {
  const passed = clock.paused ? 0 : ((performance.now() - received) / 1000) * clock.speed;
  return clock.now + passed;
}

export const isPaused = () => clock === null || clock.paused;

// When the next thing happens changes with each operation.
export const refreshClock = throttled(async () => {
  try {
    showClock(await call("GET", "/clock"));
  } catch {
    // The stream of events shows that the emulator is unavailable.
  }
}, 500);

function drawClock() {
  if (clock === null) return;
  const time = new Date(Date.parse(clock.date) + (now() - clock.now) * 1000);
  setText(at("time"), `${time.toISOString().slice(0, 10)} ${hour(time)}`);
  at("time").dateTime = time.toISOString();
  const left = clock.next === null ? null : clock.next - now();
  const due = left === null ? "nothing is due" : `next event in ${seconds(Math.max(0, left))}`;
  setText(at("clock-note"), `UTC, ${clock.paused ? "paused" : `${clock.speed}×`}, ${due}`);
  setText(at("pause"), clock.paused ? "Resume" : "Pause");
  at("next").disabled = clock.next === null;
  at("clock-title").parentElement.dataset.paused = clock.paused;
}

export function setUpClock() {
  const change = (path, content) =>
    act(async () => showClock(await call("POST", `/clock/${path}`, content)));
  at("pause").addEventListener("click", () => change(clock.paused ? "resume" : "pause"));
  for (const button of document.querySelectorAll("[data-step]")) {
    const step = { seconds: Number(button.dataset.step) };
    button.addEventListener("click", () => change("step", step));
  }
  at("next").addEventListener("click", () => change("jump", { to: "next" }));
  at("speed").addEventListener("change", () => change("speed", { speed: Number(at("speed").value) }));
  setInterval(() => {
    if (!isPaused()) draw(drawClock);
  }, TICK);
}
