// An experiment: rows of images, columns of values, all videos in step.

import { all, call } from "/static/api.js";
import { Cell } from "/static/cell.js";
import { showDetail } from "/static/cell_detail.js";
import { CellGrid } from "/static/cell_grid.js";
import { contactSheet } from "/static/contact_sheet.js";
import { $, announce, h } from "/static/dom.js";
import { showGone, showStatus } from "/static/experiment_status.js";
import { asCsv, save } from "/static/export.js";
import { InStep } from "/static/in_step.js";
import { showCharts } from "/static/measure_charts.js";
import "/static/page.js";

const POLL_MS = 1500;
/** Above so many the cells are read again only when one has ended. */
const FEW = 200;

const id = location.pathname.split("/").pop();
const base = `/v1/experiments/${encodeURIComponent(id)}`;
const store = `favourites:${id}`;
const favourites = new Set(JSON.parse(localStorage.getItem(store) ?? "[]"));

let experiment = null;
/** By index. */
const cells = new Map();
const byVideo = new WeakMap();
/** Made when the experiment is known. */
let grid = null;

const inStep = new InStep((fraction, isPlaying) => {
  $("play").textContent = isPlaying ? "Pause" : "Play";
  if (document.activeElement !== $("scrub") || isPlaying) $("scrub").value = fraction;
  const frames = frameCount();
  const frame = Math.min(frames, Math.floor(fraction * frames) + 1);
  $("frame").textContent = frames ? `Frame ${frame} of ${frames}` : "";
  $("scrub").setAttribute("aria-valuetext", $("frame").textContent);
});

const near = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      byVideo.get(entry.target)?.load();
    }
  },
  { rootMargin: "400px" },
);

const frameCount = () => Math.max(0, ...[...cells.values()].map(({ cell }) => cell.job?.result?.num_frames ?? 0));

async function refresh() {
  try {
    const before = experiment;
    experiment = await call("GET", base);
    const changed = JSON.stringify(before?.counts) !== JSON.stringify(experiment.counts);
    if (changed || experiment.counts.total <= FEW) await readCells();
    $("problem").textContent = "";
    showStatus(experiment);
    if (before && before.status !== experiment.status) announce(`${experiment.name}: ${experiment.status}`);
    if (!before) begin();
    if (changed) {
      arrange();
      drawCharts();
    }
  } catch (error) {
    if (error.status === 404) return showGone();
    if (error.status === 401) return;
    if (error.status) $("problem").textContent = error.message; // of a lost connection the banner tells
  }
  schedule();
}

let timer;
function schedule() {
  clearTimeout(timer);
  if (document.hidden) return;
  if (experiment?.status !== "finished") timer = setTimeout(refresh, POLL_MS);
}
document.addEventListener("visibilitychange", schedule);
document.addEventListener("connection-restored", refresh);

async function readCells() {
  for (const cell of await all(`${base}/cells`, 10_000)) {
    const known = cells.get(cell.index);
    if (known) known.update(cell);
    else cells.set(cell.index, makeCell(cell));
    const { video } = cells.get(cell.index);
    if (video) byVideo.set(video, cells.get(cell.index));
  }
}

function makeCell(cell) {
  const made = new Cell(cell, experiment.images[cell.image_index].name, {
    inStep,
    near,
    isFavourite: favourites.has(cell.id),
    onFavourite: () => {
      if (made.isFavourite) favourites.add(cell.id);
      else favourites.delete(cell.id);
      localStorage.setItem(store, JSON.stringify([...favourites]));
      arrange();
    },
    onShow: () => {
      grid?.choose(made);
      showDetail(made);
    },
  });
  return made;
}

for (const button of $("actions").querySelectorAll("[data-do]")) {
  button.addEventListener("click", async () => {
    try {
      await call("POST", `${base}/${button.dataset.do}`);
    } catch (error) {
      $("problem").textContent = error.message;
    }
    refresh();
  });
}

$("delete").addEventListener("click", async () => {
  if (!confirm(`Delete this experiment, and every video that it made?`)) return;
  try {
    await call("DELETE", base);
    localStorage.removeItem(store);
    location.replace("/experiments"); // and not back to what is gone
  } catch (error) {
    if (error.status === 404) showGone();
    else $("problem").textContent = error.message;
  }
});

$("csv").addEventListener("click", () => {
  const rows = [...cells.values()].map(({ cell }) => cell);
  save(new Blob([asCsv(experiment, rows, favourites)], { type: "text/csv" }), `${id}.csv`);
});

$("sheet").addEventListener("click", async () => {
  $("sheet").disabled = true;
  inStep.pause();
  try {
    save(await contactSheet(experiment, [...cells.values()]), `${id}.png`);
  } catch (problem) {
    $("problem").textContent =
      problem instanceof RangeError
        ? problem.message
        : "The object store does not let this page read its videos (CORS), so they cannot be drawn on one sheet.";
  } finally {
    $("sheet").disabled = false;
  }
});

const drawCharts = () =>
  showCharts(
    experiment,
    [...cells.values()].map(({ cell }) => cell),
  );

function begin() {
  $("actions").hidden = $("work").hidden = false;
  grid = new CellGrid(experiment, cells);
  $("axis").append(...Object.keys(experiment.grid).map((name) => h("option", {}, name)));
  $("axis").addEventListener("change", drawCharts);
}

function arrange() {
  grid.arrange();
  $("player").hidden = frameCount() === 0;
}

$("cells").addEventListener("keydown", (event) => {
  const cell = cells.get(Number(event.target.closest(".cell")?.dataset.cell));
  if (!cell || event.ctrlKey || event.metaKey || event.altKey) return;
  const step = inStep.duration / Math.max(1, frameCount());
  if (event.key.startsWith("Arrow")) grid.beside(cell, event.key)?.element.focus();
  else if (event.key === " ") toggle();
  else if (event.key === ",") inStep.seek(inStep.time - step);
  else if (event.key === ".") inStep.seek(inStep.time + step);
  else if (event.key === "f") cell.toggle();
  else if (event.key === "Enter" && cell.cell.job) location.assign(`/jobs/${cell.cell.job.id}`);
  else return;
  event.preventDefault();
});

const toggle = () => (inStep.isPlaying ? inStep.pause() : inStep.play());
$("play").addEventListener("click", toggle);
$("scrub").addEventListener("input", () => inStep.seek(Number($("scrub").value) * inStep.duration));

refresh();
