// An experiment as one picture: its cells' videos, each at the present frame.

import { columnTitles, countPoints } from "/static/cell_grid.js";
import { h } from "/static/dom.js";

/** Videos that have not come by then are left out. */
const PATIENCE_MS = 8000;
/** Each way: 256 MB of memory, and what every browser draws. */
const SHEET_MAX_PX = 8192;
/** Nobody sees anything in smaller ones. */
const TILE_MIN_PX = 16;

/**
 * Draw the experiment's grid with its headings, once its videos are there.
 * @param {object} experiment as the API has it
 * @param {Cell[]} cells all of them
 * @returns {Promise<Blob>}
 * @throws {DOMException} the videos come from another host that does not allow it
 * @throws {RangeError} there are too many for one sheet
 */
export async function contactSheet(experiment, cells) {
  const withVideo = cells.filter(({ video }) => video);
  await loaded(withVideo);
  const width = countPoints(experiment);
  const videos = new Map(
    withVideo.map(({ cell, video }) => [`${cell.image_index} ${cell.index % width}`, video]),
  );
  return drawSheet({ rows: experiment.images.map(({ name }) => name), columns: columnTitles(experiment, cells), videos });
}

async function loaded(cells) {
  for (const cell of cells) cell.load();
  const coming = cells.filter(({ video }) => video.readyState < 2);
  await Promise.race([
    Promise.all(
      coming.map(({ video }) => new Promise((resolve) => video.addEventListener("loadeddata", resolve, { once: true }))),
    ),
    new Promise((resolve) => setTimeout(resolve, PATIENCE_MS)),
  ]);
}

/**
 * @param {{rows: string[], columns: string[], videos: Map<string, HTMLVideoElement>}} grid videos by "row column"
 * @returns {Promise<Blob>}
 */
export function drawSheet({ rows, columns, videos }) {
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
