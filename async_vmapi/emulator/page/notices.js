// One line that says what an action did, or why it failed.

import { at } from "./dom.js";

const SHOWN = 6000; // ms

let hiding = 0;

export function notify(text, kind = "good") {
  const notice = at("notice");
  notice.textContent = text;
  notice.dataset.kind = kind;
  clearTimeout(hiding);
  hiding = setTimeout(() => (notice.textContent = ""), SHOWN);
}

// Runs what a button does.
export async function act(action) {
  try {
    await action();
  } catch (error) {
    const lost = error instanceof TypeError; // fetch's connection error
    notify(lost ? "The emulator could not be reached." : error.message, "bad");
  }
}
