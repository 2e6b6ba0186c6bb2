// An experiment as a table in a file.

import { h } from "/static/dom.js";
import { measure, MEASURES } from "/static/measures.js";

export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** RFC 4180; what a spreadsheet would take for a formula gets a quote before it. */
export function asCsv(experiment, cells, favourites) {
  const axes = Object.keys(experiment.grid);
  const head = ["index", "image", ...axes, "status", ...Object.keys(MEASURES), "seed", "job_id", "favourite"];
  const rows = cells.map((cell) => [
    cell.index,
    experiment.images[cell.image_index].name,
    ...axes.map((axis) => cell.grid_values[axis]),
    cell.status,
    ...Object.keys(MEASURES).map((name) => measure(cell.job, name) ?? ""),
    cell.job?.params.seed ?? "",
    cell.job?.id ?? "",
    favourites.has(cell.id),
  ]);
  return [head, ...rows].map((row) => row.map(field).join(",")).join("\r\n") + "\r\n";
}

function field(value) {
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
