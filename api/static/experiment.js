// An experiment: rows of images, columns of values, all videos in step.

import { all, call } from "/static/api.js";
import { Cell } from "/static/cell.js";
import { $, announce, h, seconds, shortId } from "/static/dom.js";
import { asCsv, contactSheet, save } from "/static/export.js";
import { InStep } from "/static/in_step.js";
import { valuesText } from "/static/job_view.js";
import { showCharts } from "/static/measure_charts.js";
import { measure, MEASURES, show } from "/static/measures.js";
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
let current = 0;

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
const points = () => Object.values(experiment.grid).reduce((count, values) => count * values.length, 1);

async function refresh() {
  try {
    const before = experiment;
    experiment = await call("GET", base);
    const changed = JSON.stringify(before?.counts) !== JSON.stringify(experiment.counts);
    if (changed || experiment.counts.total <= FEW) await readCells();
    $("problem").textContent = "";
    showStatus();
    if (before && before.status !== experiment.status) announce(`${experiment.name}: ${experiment.status}`);
    if (!before) begin();
    if (changed) {
      arrange();
      drawCharts();
    }
  } catch (error) {
    if (error.status === 404) return gone();
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
    onShow: () => showDetail(made),
  });
  return made;
}

function gone() {
  $("title").textContent = "There is no such experiment";
  $("status").replaceChildren(
    h(
      "p",
      {},
      "It has been deleted, or it belongs to another key's owner. ",
      h("a", { href: "/experiments" }, "All experiments"),
    ),
  );
  $("actions").hidden = $("work").hidden = true;
}

function showStatus() {
  const { counts, status } = experiment;
  document.title = `${experiment.name} · Animatic`;
  $("title").textContent = experiment.name;
  const left = experiment.eta_s === null ? "" : `, about ${seconds(Math.max(1, experiment.eta_s))} left`;
  const rest = ["running", "queued", "failed", "canceled"]
    .filter((name) => counts[name])
    .map((name) => `${counts[name]} ${name}`);
  $("status").replaceChildren(
    h(
      "p",
      {},
      h("span", { class: `badge ${status === "finished" ? "succeeded" : "running"}` }, status),
      ` ${counts.succeeded} of ${counts.total} videos${rest.length ? `, ${rest.join(", ")}` : ""}${left}`,
    ),
    ...(status === "finished"
      ? []
      : [h("progress", { max: "1", value: experiment.progress, "aria-label": "Progress of the experiment" })]),
  );
  $("warnings").replaceChildren(...experiment.warnings.map((text) => h("li", {}, text)));
  const fits = {
    pause: status === "running",
    resume: status === "paused",
    cancel: status !== "finished",
    retry: counts.failed > 0,
  };
  $("sheet").hidden = counts.succeeded === 0;
  $("delete").hidden = status !== "finished";
  for (const button of $("actions").querySelectorAll("[data-do]")) button.hidden = !fits[button.dataset.do];
  const { wandb } = experiment;
  $("wandb").replaceChildren(
    ...(wandb
      ? [
          wandb.urls.length
            ? h("a", { href: wandb.urls[0], rel: "noreferrer" }, "Weights & Biases")
            : h("span", { class: "muted small" }, `Weights & Biases: ${wandb.error ?? wandb.status}`),
        ]
      : []),
  );
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
    if (error.status === 404) gone();
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
  for (const cell of cells.values()) cell.load();
  const loaded = [...cells.values()].filter(({ video }) => video && video.readyState < 2);
  await Promise.race([
    Promise.all(
      loaded.map(
        ({ video }) => new Promise((resolve) => video.addEventListener("loadeddata", resolve, { once: true })),
      ),
    ),
    new Promise((resolve) => setTimeout(resolve, 8000)),
  ]);
  try {
    const videos = new Map(
      [...cells.values()]
        .filter(({ video }) => video)
        .map(({ cell, video }) => [`${cell.image_index} ${cell.index % points()}`, video]),
    );
    save(
      await contactSheet({ rows: experiment.images.map(({ name }) => name), columns: columnTitles(), videos }),
      `${id}.png`,
    );
  } catch (problem) {
    $("problem").textContent =
      problem instanceof RangeError
        ? problem.message
        : "The object store does not let this page read its videos (CORS), so they cannot be drawn on one sheet.";
  } finally {
    $("sheet").disabled = false;
  }
});

/** A row of headings per axis, each over the columns of the axes below it. */
function gridHead() {
  let columns = 1;
  const rows = Object.entries(experiment.grid).map(([name, values]) => {
    const over = columns;
    columns *= values.length;
    const span = points() / columns;
    const titles = Array.from({ length: over }, () => values).flat();
    const cells = titles.map((value) =>
      h("th", { scope: span > 1 ? "colgroup" : "col", colspan: String(span) }, String(value)),
    );
    const parts = name.split(/(?<=_)/).flatMap((part) => [part, h("wbr")]);
    return h("tr", {}, h("th", { scope: "row" }, ...parts), ...cells);
  });
  return h("thead", {}, ...rows);
}

const columnTitles = () => [...cells.values()].slice(0, points()).map(({ cell }) => valuesText(cell));

const drawCharts = () =>
  showCharts(
    experiment,
    [...cells.values()].map(({ cell }) => cell),
  );

function begin() {
  $("actions").hidden = $("work").hidden = false;
  $("order").append(
    ...Object.entries(MEASURES).flatMap(([name, { name: title }]) => [
      h("option", { value: `${name} 1` }, `${title}, least first`),
      h("option", { value: `${name} -1` }, `${title}, most first`),
    ]),
  );
  $("measure").append(
    ...Object.entries(MEASURES).map(([name, { name: title }]) => h("option", { value: name }, title)),
  );
  $("axis").append(...Object.keys(experiment.grid).map((name) => h("option", {}, name)));
  $("axis").addEventListener("change", drawCharts);
  for (const name of ["order", "measure", "low", "high", "favourites"]) $(name).addEventListener("input", arrange);
}

function fits(cell) {
  if ($("favourites").checked && !cell.isFavourite) return false;
  const value = measure(cell.cell.job, $("measure").value);
  const [low, high] = [$("low").value, $("high").value];
  if (low !== "" && (value === null || value < Number(low))) return false;
  return high === "" || (value !== null && value <= Number(high));
}

/** What is on the page, in reading order. */
let order = [];

function arrange() {
  const [name, direction] = $("order").value.split(" ");
  const fitting = [...cells.values()].filter(fits);
  const focused = document.activeElement?.closest?.(".cell");
  if (name) {
    const value = (cell) => measure(cell.cell.job, name);
    order = fitting.sort(
      (a, b) => (value(a) === null) - (value(b) === null) || (value(a) - value(b)) * Number(direction),
    );
    const items = order.map((cell) =>
      h(
        "li",
        {},
        cell.element,
        h("p", { class: "small" }, `${cell.imageName}, ${valuesText(cell.cell)}: `, h("strong", {}, show(value(cell)))),
      ),
    );
    $("cells").replaceChildren(h("ol", { class: "sorted" }, ...items));
  } else {
    order = [...cells.values()];
    const shownCells = new Set(fitting);
    for (const cell of order) cell.element.classList.toggle("out", !shownCells.has(cell));
    $("cells").replaceChildren(gridTable());
  }
  if (name) for (const cell of order) cell.element.classList.remove("out");
  $("shown").textContent =
    fitting.length === cells.size ? `${cells.size} cells` : `${fitting.length} of ${cells.size} cells`;
  $("player").hidden = frameCount() === 0;
  rove();
  focused?.focus({ preventScroll: true });
}

function gridTable() {
  const width = points();
  const rows = experiment.images.map(({ name, input_id: inputId }, row) => {
    const picture = h("img", { src: `/v1/inputs/${inputId}/image`, alt: "", loading: "lazy" });
    const own = order.slice(row * width, (row + 1) * width);
    return h("tr", {}, h("th", { scope: "row" }, picture, name), ...own.map((cell) => h("td", {}, cell.element)));
  });
  $("cells").style.setProperty("--columns", String(width));
  return h("table", { class: "grid-table" }, gridHead(), h("tbody", {}, ...rows));
}

function rove() {
  const target = cells.get(current) && order.includes(cells.get(current)) ? cells.get(current) : order[0];
  for (const cell of cells.values()) cell.element.tabIndex = cell === target ? 0 : -1;
}

function showDetail(made) {
  const { cell, imageName } = made;
  current = cell.index;
  rove();
  const known = Object.entries(MEASURES).map(([name, { name: title, unit }]) => [
    `${title}, ${unit}`,
    show(measure(cell.job, name)),
  ]);
  const params = Object.entries(cell.job?.params ?? {}).map(([name, value]) => [name, String(value)]);
  const facts = (pairs) =>
    h("dl", { class: "facts" }, ...pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  $("detail").replaceChildren(
    h("p", {}, h("strong", {}, imageName), `, ${valuesText(cell)}`),
    cell.job
      ? h(
          "p",
          { class: "small" },
          h("a", { href: `/jobs/${cell.job.id}` }, `Job ${shortId(cell.job.id)}`),
          cell.reused ? " (reused)" : "",
          cell.tries > 1 ? `, try ${cell.tries}` : "",
        )
      : "",
    cell.job?.error ? h("p", { class: "error" }, cell.job.error.message) : "",
    h("h3", {}, "Measures"),
    facts(known),
    h("details", {}, h("summary", {}, "Parameters"), facts(params)),
  );
}

$("cells").addEventListener("keydown", (event) => {
  const cell = cells.get(Number(event.target.closest(".cell")?.dataset.cell));
  if (!cell || event.ctrlKey || event.metaKey || event.altKey) return;
  const place = order.indexOf(cell);
  const width = $("order").value ? 1 : points();
  const go = { ArrowLeft: place - 1, ArrowRight: place + 1, ArrowUp: place - width, ArrowDown: place + width }[
    event.key
  ];
  const step = inStep.duration / Math.max(1, frameCount());
  if (go !== undefined) order[go]?.element.focus();
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
