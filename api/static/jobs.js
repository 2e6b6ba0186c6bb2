// Gallery and queue: what there is, what waits, and who works.

import { call } from "/static/api.js";
import { clip } from "/static/clip.js";
import { $, announce, h, movesFreely, plural, shortId } from "/static/dom.js";
import { badge, experimentLink, progress, standing, title, titleParts } from "/static/job_view.js";
import { isOver, usual } from "/static/live.js";
import "/static/page.js";

const PAGE = 24;
const MOST = 100;
const POLL_MS = 3000;
const filters = $("filters");

/** What is shown, newest first, and what it was built from: an unchanged tile stays, with its video. */
let jobs = [];
/** Of the filters: what was asked with earlier ones is not shown. */
let version = 0;
let isLoadingMore = false;
const tiles = new Map();
const chosen = new Set();

function query(limit, after) {
  const values = new URLSearchParams({ limit });
  for (const [name, value] of new FormData(filters)) if (value) values.set(name, value);
  if (after) values.set("after", after);
  return `/v1/jobs?${values}`;
}

/** Read again what is shown; beyond a hundred only those are kept up to date. */
async function refresh() {
  const asked = version;
  try {
    const page = await call("GET", query(Math.min(MOST, Math.max(PAGE, jobs.length))));
    if (asked !== version) return;
    $("label-error").textContent = "";
    const last = jobs.findIndex(({ id }) => id === page.last_id);
    const rest = page.has_more && last >= 0 ? jobs.slice(last + 1) : [];
    jobs = [...page.data, ...rest];
    if (!rest.length) $("more").hidden = !page.has_more;
    show();
  } catch (problem) {
    if (asked !== version) return;
    const said = problem.errors?.length ? problem.errors.map(({ message }) => message).join(" ") : problem.message;
    // Of a lost connection, and of an ended sign-in, the banner tells.
    $("label-error").textContent = problem.status && problem.status !== 401 ? said : "";
    if (!jobs.length) $("tiles").replaceChildren(h("li", { class: "empty" }, "Jobs cannot be shown now."));
  }
}

$("more").addEventListener("click", async () => {
  if (isLoadingMore) return;
  isLoadingMore = true;
  const asked = version;
  const page = await call("GET", query(PAGE, jobs.at(-1)?.id)).catch(() => null);
  isLoadingMore = false;
  if (!page) return refresh();
  if (asked !== version) return;
  const known = new Set(jobs.map(({ id }) => id));
  jobs.push(...page.data.filter(({ id }) => !known.has(id)));
  $("more").hidden = !page.has_more;
  show();
  tiles.get(page.data[0]?.id)?.element.querySelector("a").focus();
});

function show() {
  const known = new Set(jobs.map((job) => job.id));
  for (const id of tiles.keys()) {
    if (!known.has(id)) tiles.delete(id);
  }
  for (const id of chosen) if (!known.has(id)) chosen.delete(id);
  const elements = jobs.map((job) => {
    const state = JSON.stringify([job.status, job.progress, job.cancel_requested_at, job.expired_at]);
    const tile = tiles.get(job.id);
    if (tile?.state === state) return tile.element;
    const element = makeTile(job);
    // Whoever is on it with the keyboard stays on it.
    const focused = tile?.element.contains(document.activeElement) ? document.activeElement.tagName : null;
    tile?.element.replaceWith(element);
    if (focused) element.querySelector(focused.toLowerCase())?.focus();
    tiles.set(job.id, { state, element });
    return element;
  });
  const list = $("tiles");
  const isFiltered = [...new FormData(filters).values()].some(Boolean);
  const empty = isFiltered
    ? h("li", { class: "empty" }, "No job fits these filters.")
    : h("li", { class: "empty" }, "No jobs yet. ", h("a", { href: "/" }, "Make the first in Studio"), ".");
  const wanted = elements.length ? elements : [empty];
  if (wanted.length !== list.children.length || wanted.some((element, index) => list.children[index] !== element)) {
    list.replaceChildren(...wanted);
  }
  showBulk();
}

function makeTile(job) {
  const choose = h("input", {
    type: "checkbox",
    "aria-label": `Choose ${title(job)} ${shortId(job.id)}`,
    checked: chosen.has(job.id),
    change: () => {
      if (choose.checked) chosen.add(job.id);
      else chosen.delete(job.id);
      showBulk();
    },
  });
  return h(
    "li",
    { class: "tile panel", "data-job": job.id, "data-status": job.status },
    h("a", { class: "thumb", href: `/jobs/${job.id}`, tabindex: "-1", "aria-hidden": "true" }, thumb(job)),
    h(
      "div",
      { class: "tile-text" },
      h(
        "div",
        { class: "row" },
        h("label", { class: "choose" }, choose),
        h("a", { href: `/jobs/${job.id}`, title: title(job) }, ...titleParts(job)),
        badge(job),
      ),
      h("p", { class: "row small muted" }, standing(job, usual(jobs, job.model)), experimentLink(job)),
      progress(job),
    ),
  );
}

function thumb(job) {
  if (!job.links.video) {
    return job.input_id
      ? h("img", { src: `/v1/inputs/${job.input_id}/image`, alt: "", loading: "lazy" })
      : h("span", {}, job.status);
  }
  const video = clip(job.id, { controls: false, plays: false, label: "" });
  video.addEventListener("mouseenter", () => movesFreely() && video.play().catch(() => {}));
  video.addEventListener("mouseleave", () => video.pause());
  return video;
}

function showBulk() {
  $("bulk").hidden = chosen.size === 0;
  $("bulk-count").textContent = `${chosen.size} chosen`;
  const running = jobs.some((job) => chosen.has(job.id) && !isOver(job));
  $("bulk-cancel").hidden = !running;
}

async function forChosen(method, path, fits, done) {
  $("bulk-error").textContent = "";
  const wanted = jobs.filter((job) => chosen.has(job.id) && fits(job));
  const results = await Promise.allSettled(wanted.map((job) => call(method, `/v1/jobs/${job.id}${path}`)));
  // Ended, or gone, in the meantime: that is what was wanted.
  const refused = results.filter(({ reason }) => reason && ![404, 409].includes(reason.status));
  if (refused.length)
    $("bulk-error").textContent = `${refused.length} of ${wanted.length}: ${refused[0].reason.message}`;
  else announce(`${wanted.length} ${done}`);
  await refresh();
}

$("bulk-cancel").addEventListener("click", () => forChosen("POST", "/cancel", (job) => !isOver(job), "canceled"));
$("bulk-delete").addEventListener("click", () => {
  if (confirm(`Delete ${plural(chosen.size, "job")} with all files?`)) forChosen("DELETE", "", () => true, "deleted");
});
$("bulk-clear").addEventListener("click", () => {
  chosen.clear();
  for (const box of $("tiles").querySelectorAll("input")) box.checked = false;
  showBulk();
});

filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("change", () => reload());
filters.addEventListener("reset", () => setTimeout(reload));

function reload() {
  version += 1;
  jobs = [];
  chosen.clear();
  refresh();
}

async function showQueue() {
  const [models, workers] = await Promise.all([call("GET", "/v1/models"), call("GET", "/v1/workers")]);
  $("queue").replaceChildren(
    ...models.data.map((model) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, model.id),
        h("td", {}, String(model.queued)),
        h("td", {}, model.workers ? String(model.workers) : h("span", { class: "muted" }, "none")),
      ),
    ),
  );
  const choices = filters.elements.namedItem("model");
  if (choices.options.length === 1) choices.append(...models.data.map((model) => h("option", {}, model.id)));
  const cards = workers.data.map((worker) =>
    h(
      "li",
      { class: "card" },
      h(
        "div",
        { class: "row" },
        h("strong", {}, worker.device ?? "device unknown"),
        h("span", { class: `badge ${worker.status === "busy" ? "running" : ""}` }, worker.status),
      ),
      h("p", { class: "small muted" }, `${worker.model} · ${shortId(worker.id)}`),
      worker.job_id &&
        h("p", { class: "small" }, "works on ", h("a", { href: `/jobs/${worker.job_id}` }, shortId(worker.job_id))),
    ),
  );
  $("workers").replaceChildren(
    ...(cards.length ? cards : [h("li", { class: "empty" }, "No worker is there: jobs wait until one starts.")]),
  );
}

async function round() {
  if (!document.hidden) {
    await Promise.allSettled([refresh(), showQueue()]);
  }
  setTimeout(round, POLL_MS);
}
round();
