// An experiment as a file: a table of its cells, or one picture of them at the present frame.

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

/** Each way: 256 MB of memory, and what every browser draws. */
const SHEET_MAX_PX = 8192;
/** Nobody sees anything in smaller ones. */
const TILE_MIN_PX = 16;

/**
 * Draw the grid with its headings.
 * @param {{rows: string[], columns: string[], videos: Map<string, HTMLVideoElement>}} grid videos by "row column"
 * @returns {Promise<Blob>}
 * @throws {DOMException} the videos come from another host that does not allow it
 * @throws {RangeError} there are too many for one sheet
 */
export function contactSheet({ rows, columns, videos }) {
  const [sample] = videos.values();
  const [side, top, gap] = [120, 28, 6];
  const shape = (sample?.videoWidth || 256) / (sample?.videoHeight || 144);
  const room = (start, tiles) => Math.floor((SHEET_MAX_PX - start) / tiles) - gap;
  const width = Math.min(320, sample?.videoWidth || 256, room(side, columns.length), room(top, rows.length) * shape);
  const height = Math.round(width / shape);
  if (Math.min(width, height) < TILE_MIN_PX)
    throw new RangeError("These are too many for one sheet; `animatic sweep --attach` writes several.");
  const canvas = h("canvas", {
    width: side + columns.length * (width + gap),
    height: top + rows.length * (height + gap),
  });
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = "#111";
  pen.font = "13px system-ui, sans-serif";
  for (const [column, text] of columns.entries()) pen.fillText(text, side + column * (width + gap), 18, width);
  for (const [row, text] of rows.entries()) {
    pen.fillText(text, 6, top + row * (height + gap) + height / 2, side - 12);
    for (const column of columns.keys()) {
      const video = videos.get(`${row} ${column}`);
      if (video?.readyState >= 2)
        pen.drawImage(video, side + column * (width + gap), top + row * (height + gap), width, height);
    }
  }
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
