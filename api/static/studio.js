// Studio: images and parameters in, jobs and videos out.

import { call, newKey, Problem } from "/static/api.js";
import { $, announce, h, movesFreely } from "/static/dom.js";
import { ParameterForm } from "/static/form.js";
import { actions, badge, card, progress, sideBySide, standing, title, titleParts } from "/static/job_view.js";
import { isOver, LiveJobs, usual } from "/static/live.js";
import { showCrop, Sources } from "/static/sources.js";
import { Sweep } from "/static/sweep.js";
import "/static/page.js";

const RECENT = 12;
const AGAIN_MS = 3000;
const query = new URLSearchParams(location.search);

/** The recent jobs, newest first. */
let jobs = [];
let chosenId = null;
let resolved = null;

const live = new LiveJobs(takeJob, dropJob);
const maxBytes = Number(document.querySelector(".studio").dataset.maxBodyBytes);
const sources = new Sources(maxBytes, () => {
  showCrop(sources.current, resolved);
  sweep.show();
  nameSubmit();
});
const form = new ParameterForm($("studio"), (params) => {
  resolved = params;
  showCrop(sources.current, resolved);
});

const sweep = new Sweep(sources, form);
if (query.has("sweep")) $("sweep").open = true;

function takeJob(job) {
  const index = jobs.findIndex((known) => known.id === job.id);
  if (index >= 0 && jobs[index].status !== job.status) announce(`${title(job)}: ${job.status}`);
  if (index >= 0) jobs[index] = job;
  else jobs.unshift(job);
  live.watch(job);
  showJobs();
  if (job.id === chosenId) showStage(job);
}

function dropJob(id) {
  jobs = jobs.filter((job) => job.id !== id);
  live.unwatch(id);
  showJobs();
  if (id === chosenId) {
    $("stage").replaceChildren(h("p", { class: "empty" }, "This job has been deleted. Its photo can make a new one."));
  }
}

function choose(job) {
  chosenId = job.id;
  showJobs();
  showStage(job);
}

function showJobs() {
  const focused = document.activeElement?.closest("[data-job]")?.dataset.job;
  const cards = jobs
    .slice(0, RECENT)
    .map((job) => card(job, { onChoose: choose, isChosen: job.id === chosenId, usualS: usual(jobs, job.model) }));
  $("recent").replaceChildren(
    ...(cards.length ? cards : [h("li", { class: "empty" }, "None yet: choose an image to make the first.")]),
  );
  if (focused) document.querySelector(`#recent [data-job="${focused}"] button`)?.focus();
}

let staged = "";
function showStage(job) {
  const status = h(
    "div",
    { id: "stage-status" },
    h("p", {}, badge(job), " ", standing(job, usual(jobs, job.model))),
    progress(job),
  );
  const state = `${job.id} ${job.status} ${job.cancel_requested_at} ${job.expired_at}`;
  // A playing video is not to start again at each step of another job.
  if (state === staged && $("stage-status")) return $("stage-status").replaceWith(status);
  staged = state;
  const onChange = (changed) => (changed ? takeJob(changed) : dropJob(job.id));
  const problem = h("p", { class: "error", role: "alert" });
  const onError = (error) => {
    if (error.status === 404) dropJob(job.id);
    else problem.textContent = error.message;
  };
  $("stage").replaceChildren(
    h("h3", {}, h("a", { href: `/jobs/${job.id}` }, ...titleParts(job))),
    status,
    sideBySide(job),
    h("ul", { class: "warnings" }, ...job.warnings.map((text) => h("li", {}, text))),
    actions(job, { onChange, onError }),
    problem,
  );
}

/** Send one image; an image that the service has already is not sent again. */
async function submit(source, values) {
  // The same key over all tries: a request whose answer was lost makes no second job.
  source.key ??= newKey();
  const headers = { "Idempotency-Key": source.key };
  const model = $("model").value;
  try {
    let job;
    if (source.input_id) {
      job = await call("POST", "/v1/jobs", {
        json: { ...values, model, input_id: source.input_id, image_name: nameOf(source) },
        headers,
      });
    } else {
      const body = new FormData();
      body.append("image", source.file);
      for (const [name, value] of Object.entries({ ...values, model })) body.append(name, value);
      job = await call("POST", "/v1/jobs", { form: body, headers });
    }
    source.key = undefined;
    source.input_id = job.input_id;
    return job;
  } catch (error) {
    if (error instanceof Problem) source.key = undefined;
    if (error.status === 404 && source.input_id && source.file) {
      // Erased with its last job; we still have the file.
      source.input_id = undefined;
      return submit(source, values);
    }
    throw error;
  }
}

function nameSubmit() {
  const count = sources.items.length;
  $("submit").textContent = count > 1 ? `Make ${count} videos` : "Make video";
}

/** As long as the API takes it; cut between characters. */
const nameOf = (source) => [...source.name.replaceAll("\0", "")].slice(0, 255).join("") || null;

function showSubmitProblem(source, error) {
  const elsewhere = error instanceof Problem ? form.showProblem(error) : [error.message];
  const isImage = error.errors?.some(({ field }) => ["image", "input_id"].includes(field)) || error.status === 413;
  if (isImage) sources.say(`${source.name}: ${elsewhere.join(" ")}`);
  else $("form-error").textContent = elsewhere.join(" ");
}

$("studio").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("form-error").textContent = "";
  form.clearErrors();
  if (!sources.items.length) {
    sources.say("Choose an image first: a photo works best.");
    $("pick").focus();
    return;
  }
  sources.say("");
  const button = $("submit");
  button.disabled = true;
  try {
    for (const [index, source] of sources.items.entries()) {
      button.textContent = `Sending ${index + 1} of ${sources.items.length}…`;
      try {
        const job = await submit(source, form.values());
        takeJob(job);
        if (index === 0) {
          choose(job);
          $("stage").parentElement.scrollIntoView({ block: "nearest", behavior: movesFreely() ? "smooth" : "auto" });
        }
      } catch (error) {
        showSubmitProblem(source, error);
        return;
      }
    }
    announce("Sent. Progress is shown under Result.");
  } finally {
    button.disabled = false;
    nameSubmit();
  }
});

let [isLoaded, isStarted] = [false, false];
async function start() {
  try {
    if (!isLoaded) await form.load();
    isLoaded = true;
    // Not before: without the model's defaults there is nothing to send.
    $("submit").disabled = $("sweep-start").disabled = false;
    jobs = (await call("GET", `/v1/jobs?limit=${RECENT}`)).data;
  } catch (error) {
    $("recent").replaceChildren(h("li", { class: "empty" }, "Jobs cannot be shown now."));
    if (error.status) $("form-error").textContent = error.message; // of a lost connection the banner tells
    if (error.status >= 500) setTimeout(start, AGAIN_MS);
    return;
  }
  isStarted = true;
  $("form-error").textContent = "";
  showJobs();
  for (const job of jobs.filter((job) => !isOver(job))) live.watch(job);
  const first = jobs.find((job) => !isOver(job)) ?? jobs[0];
  if (first) choose(first);
  if (query.has("from")) await takeOver(query.get("from"));
}

/** Run again with…: an earlier job's image and parameters. */
async function takeOver(id) {
  try {
    const job = await call("GET", `/v1/jobs/${encodeURIComponent(id)}`);
    form.fill(job.params, job.model);
    if (job.input_id) sources.addInput(job.input_id, job.image_name ?? title(job));
  } catch (error) {
    $("form-error").textContent = error.status === 404 ? "The job to run again has been deleted." : error.message;
  }
}

document.addEventListener("connection-restored", () => isStarted || start());
start();
