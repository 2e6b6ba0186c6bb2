// The one way to the API: JSON in and out, the session's CSRF token on every change, problems as exceptions.

const csrf = document.querySelector('meta[name="csrf-token"]')?.content ?? "";

/** The API refused: RFC 9457. `errors` names each field concerned. */
export class Problem extends Error {
  constructor(status, body, retryAfterS) {
    super(body.detail ?? `The service answered ${status}.`);
    Object.assign(this, { status, code: body.code, errors: body.errors ?? [], retryAfterS });
  }
}

/** No answer came from the service: it, or the way to it, is away. */
export class ConnectionLost extends Error {
  constructor() {
    super("The connection to the service was lost. Nothing is lost with it: try again.");
  }
}

/**
 * @param {string} method
 * @param {string} path such as `/v1/jobs?limit=5`
 * @param {{json?: unknown, form?: FormData, headers?: Record<string, string>, signal?: AbortSignal}} options
 * @returns the answer's JSON; null where it has no body.
 * @throws {Problem | ConnectionLost}
 */
export async function call(method, path, { json, form, headers = {}, signal } = {}) {
  const sent = { Accept: "application/json", ...headers };
  if (method !== "GET") sent["X-CSRF-Token"] = csrf;
  if (json !== undefined) sent["Content-Type"] = "application/json";
  let answer;
  let text;
  try {
    const body = json === undefined ? form : JSON.stringify(json);
    answer = await fetch(path, { method, headers: sent, body, signal, credentials: "same-origin" });
    text = await answer.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    tell("connection-lost");
    throw new ConnectionLost();
  }
  const body = parse(text);
  // A proxy's own words: our refusals have a code.
  if ([502, 503, 504].includes(answer.status) && !body?.code) {
    tell("connection-lost");
    throw new ConnectionLost();
  }
  tell("connection-back");
  if (answer.ok) return body;
  if (answer.status === 401) tell("signed-out");
  if (body?.code === "csrf_refused") tell("session-changed");
  throw new Problem(answer.status, body ?? {}, Number(answer.headers.get("Retry-After")) || undefined);
}

/** All items of a list, page after page, up to `most`. */
export async function all(path, most = 1000) {
  const items = [];
  let after = "";
  for (;;) {
    const page = await call("GET", `${path}${path.includes("?") ? "&" : "?"}limit=100${after}`);
    items.push(...page.data);
    if (!page.has_more || items.length >= most) return items;
    after = `&after=${page.last_id}`;
  }
}

/** A fresh Idempotency-Key. Not randomUUID, which plain HTTP lacks. */
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function parse(text) {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return null;
  }
}

function tell(name) {
  document.dispatchEvent(new CustomEvent(name));
}
