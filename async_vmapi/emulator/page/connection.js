// Requests to the control API, and its events. The token is sent in a header only: EventSource cannot
// send headers, and a token in a query would be logged.

const STORE = "control-token";
const SILENCE = 45_000; // ms; the emulator sends a comment each 15 s

let token = "";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// Takes the token from the URL, out of sight, so that it is neither copied nor photographed with it.
// The browser keeps it for this tab, until the tab is closed.
export function takeToken() {
  const given = /^#token=(.+)$/.exec(location.hash);
  if (given) {
    history.replaceState(null, "", location.pathname);
    setToken(decoded(given[1]));
  } else {
    token = sessionStorage.getItem(STORE) ?? "";
  }
  return token !== "";
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export function setToken(given) {
  token = given.trim();
  sessionStorage.setItem(STORE, token);
}

export function forgetToken() {
  token = "";
  sessionStorage.removeItem(STORE);
}

async function send(method, path, content, signal) {
  // A header cannot have other characters, and no token has them.
  if (!/^[\x21-\x7e]+$/.test(token)) throw new Refused(401, "This is not a control token.");
  const response = await fetch(`/_emulator${path}`, {
    method,
    signal,
    headers: { Authorization: `Bearer ${token}` },
    body: content === undefined ? undefined : JSON.stringify(content),
    credentials: "omit",
    redirect: "error",
  });
  if (!response.ok) {
    const { error } = await response.json().catch(() => ({}));
    throw new Refused(response.status, error ?? `The emulator responded with ${response.status}.`);
  }
  return response;
}

export async function call(method, path, content) {
  const response = await send(method, path, content);
  return response.json();
}

// Opens the stream of events, and returns what reads them. Those that happen before they are read
// are kept.
export async function listen() {
  const stop = new AbortController();
  const response = await send("GET", "/events", undefined, stop.signal);
  return { events: read(response.body, stop), stop: () => stop.abort() };
}

async function* read(body, stop) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    // A computer that slept may have lost the connection without notice.
    const silent = setTimeout(() => stop.abort(), SILENCE);
    const { value, done } = await reader.read().finally(() => clearTimeout(silent));
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const event = parsed(block);
      if (event) yield event;
    }
  }
}

function parsed(block) {
  let kind = "";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) kind = line.slice(7);
    else if (line.startsWith("data: ")) data = line.slice(6);
  }
  return data ? { kind, content: JSON.parse(data) } : null;
}
