// Making elements, and showing numbers to people.

/**
 * Make an element: `h("a", { href: "/", class: "quiet" }, "Studio")`. Functions become listeners, text stays text.
 * @returns {HTMLElement}
 */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(key, value);
    else if (["muted", "loop", "value", "checked", "srcObject"].includes(key)) element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const $ = (id) => document.getElementById(id);

/** Say something to those who do not see the page. */
export function announce(text) {
  $("announce").textContent = text;
}

export const movesFreely = () => matchMedia("(prefers-reduced-motion: no-preference)").matches;

export function bytes(count) {
  for (const [unit, size] of [
    ["GB", 1e9],
    ["MB", 1e6],
    ["kB", 1e3],
  ]) {
    if (count >= size) return `${(count / size).toFixed(count >= 10 * size ? 0 : 1)} ${unit}`;
  }
  return `${count} bytes`;
}

/** `1 video`, `2 videos`. */
export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

/** Of many values the first, and how many they are. */
export const few = (values) =>
  values.length > 8 ? `${values.slice(0, 6).join(", ")}, … (${values.length})` : values.join(", ");

export function seconds(value) {
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 100) return `${Math.round(value)} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}

export function ago(instant) {
  const past = Math.max(0, (Date.now() - Date.parse(instant)) / 1000);
  if (past < 45) return "just now";
  if (past < 86_400) return `${seconds(Math.max(past, 60))} ago`;
  return new Date(instant).toLocaleDateString();
}

export function time(instant) {
  return h("time", { datetime: instant, title: new Date(instant).toLocaleString() }, ago(instant));
}

export const shortId = (id) => `…${id.slice(-6)}`;

/** A dialog that shows text to be copied; it works where the clipboard may not be written. */
export function showText(title, text) {
  const area = h("textarea", { readonly: true, rows: "8", "aria-label": title }, text);
  const said = h("span", { role: "status" });
  const copy = async () => {
    area.select();
    try {
      await navigator.clipboard.writeText(text);
      said.textContent = "Copied.";
    } catch {
      said.textContent = "Press Ctrl+C to copy.";
    }
  };
  const close = h("button", { type: "button", class: "quiet", click: () => dialog.close() }, "Close");
  const dialog = h(
    "dialog",
    { "aria-label": title, close: () => dialog.remove() },
    h("h2", {}, title),
    area,
    h("div", { class: "actions" }, h("button", { type: "button", class: "primary", click: copy }, "Copy"), close, said),
  );
  document.body.append(dialog);
  dialog.showModal();
  area.select();
}
