// Faults for the next request of a call, and those that are set.

import { call } from "./connection.js";
import { at, draw, element, plural, setText, throttled } from "./dom.js";
import { act, notify } from "./notices.js";

let faults = null;

const buttons = () => document.querySelectorAll("[data-fault]");

export function wordsFor(kind) {
  const button = document.querySelector(`[data-fault="${CSS.escape(kind)}"]`);
  return button?.textContent.trim().toLowerCase() ?? kind;
}

export function showFaults(content) {
  faults = content;
  draw(drawFaults);
}

export const refreshFaults = throttled(async () => {
  try {
    showFaults(await call("GET", "/faults"));
  } catch {
    // The stream of events shows that the emulator is unavailable.
  }
}, 200);

function drawFaults() {
  const next = new Map();
  for (const fault of faults.next) {
    const text = `${fault.call}: ${wordsFor(fault.kind)}`;
    next.set(text, (next.get(text) ?? 0) + 1);
  }
  const items = [...next].map(([text, count]) => (count > 1 ? `${text} ×${count}` : text));
  for (const fault of faults.plan.fault ?? []) {
    const often = fault.nth ? `request ${fault.nth.join(", ")}` : `${+(fault.probability * 100).toFixed(2)}%`;
    items.push(`${fault.call ?? "any"}: ${wordsFor(fault.kind)}, ${often}`);
  }
  at("pending").replaceChildren(...items.map((text) => element("li", "chip", text)));
  at("pending").hidden = items.length === 0;
  at("clear").hidden = items.length === 0;
  const injected = Object.values(faults.injected).reduce((sum, count) => sum + count, 0);
  setText(at("injected"), injected > 0 ? `${plural(injected, "fault")} injected` : "");
}

function drawButtons() {
  for (const button of buttons()) {
    const only = button.dataset.only?.split(" ");
    button.disabled = only !== undefined && !only.includes(at("call").value);
  }
}

export function setUpFaults() {
  for (const button of buttons()) {
    button.addEventListener("click", () =>
      act(async () => {
        const fault = { call: at("call").value, kind: button.dataset.fault };
        showFaults(await call("POST", "/faults/next", fault));
        notify(`The next ${fault.call} gets: ${wordsFor(fault.kind)}.`);
      }),
    );
  }
  at("call").addEventListener("change", drawButtons);
  at("clear").addEventListener("click", () =>
    act(async () => {
      showFaults(await call("DELETE", "/faults"));
      notify("All faults are removed.");
    }),
  );
  drawButtons();
}
