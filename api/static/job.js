// One job: all that the API knows of it.

import { call, ConnectionLost } from "/static/api.js";
import { $, announce, bytes, h, seconds, shortId, time } from "/static/dom.js";
import { save } from "/static/export.js";
import { actions, badge, experimentLink, progress, sideBySide, standing, title, titleParts } from "/static/job_view.js";
import { isOver, LiveJobs } from "/static/live.js";
import { measure, MEASURES, show as showMeasure } from "/static/measures.js";
import { zip } from "/static/zip.js";
import "/static/page.js";

const POLL_DELIVERY_MS = 3000;
const AGAIN_MS = 3000;

const id = location.pathname.split("/").pop();
const base = `/v1/jobs/${encodeURIComponent(id)}`;
const live = new LiveJobs(show, gone);
let shown = "";

function show(job) {
  document.title = `${title(job)} · Animatic`;
  $("title").replaceChildren(...titleParts(job).filter(Boolean));
  const before = $("status").dataset.status;
  if (before && before !== job.status) announce(`${title(job)}: ${job.status}`);
  $("status").dataset.status = job.status;
  $("status").replaceChildren(...[h("p", {}, badge(job), " ", standing(job)), progress(job)].filter(Boolean));
  const state = JSON.stringify([job.status, job.attempt, job.cancel_requested_at, job.expired_at]);
  if (state === shown) return;
  shown = state;
  $("problem").textContent = "";
  $("details").hidden = false;
  $("where").replaceChildren(
    h("a", { href: "/jobs" }, "Jobs"),
    ...(job.experiment_id ? [" · ", experimentLink(job, "Its experiment")] : []),
  );
  $("media").replaceChildren(sideBySide(job));
  const onChange = (changed) => (changed ? take(changed) : gone());
  $("actions").replaceChildren(actions(job, { onChange, onError: fail }));
  $("params").replaceChildren(
    facts(parameters(job)),
    ...(job.warnings.length ? [h("ul", { class: "warnings" }, ...job.warnings.map((text) => h("li", {}, text)))] : []),
  );
  showMeasures(job);
  showFrames(job);
  showTimeline().catch(fail);
  if (job.links.video)
    showManifest().catch(() => ($("timings").textContent = "The manifest cannot be read from here."));
  else
    $("timings").replaceChildren(
      h(
        "p",
        { class: "muted" },
        isOver(job) ? "Only a job that has succeeded has a manifest." : "Known when the job has succeeded.",
      ),
    );
  if (job.webhook_url) showDeliveries(job).catch(fail);
}

function take(job) {
  show(job);
  live.watch(job);
}

function fail(error) {
  if (error.status === 404) gone();
  else if (!(error instanceof ConnectionLost)) $("problem").textContent = error.message;
}

function gone() {
  live.unwatch(id);
  document.title = "No such job · Animatic";
  $("details").hidden = true;
  $("media").replaceChildren();
  $("actions").replaceChildren(
    h(
      "div",
      { class: "actions" },
      h("a", { class: "button primary", href: "/" }, "Make a new one"),
      h("a", { class: "button quiet", href: "/jobs" }, "All jobs"),
    ),
  );
  $("title").textContent = "There is no such job";
  $("status").replaceChildren(h("p", {}, "It has been deleted, or it belongs to another key's owner."));
}

const facts = (pairs) =>
  h("dl", { class: "facts" }, ...pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));

function parameters(job) {
  return [
    ["id", h("code", {}, job.id)],
    ["model", job.model],
    ...Object.entries(job.params).map(([name, value]) => [name, String(value)]),
    ["priority", String(job.priority)],
    ...(job.experiment_id
      ? [["experiment", h("a", { href: `/experiments/${job.experiment_id}` }, shortId(job.experiment_id))]]
      : []),
    ...Object.entries(job.labels).map(([name, value]) => [`label ${name}`, value]),
    ["created", new Date(job.created_at).toLocaleString()],
  ];
}

function showMeasures(job) {
  const known = Object.entries(MEASURES).filter(([name]) => measure(job, name) !== null);
  $("measures-panel").hidden = known.length === 0;
  $("measures").replaceChildren(
    facts(known.map(([name, { name: what, unit }]) => [`${what}, ${unit}`, showMeasure(measure(job, name))])),
  );
}

function showFrames(job) {
  const frames = job.result?.frames ?? [];
  $("frames-panel").hidden = frames.length === 0;
  $("frames").replaceChildren(
    ...frames.map((frame, number) =>
      h(
        "li",
        {},
        h(
          "a",
          { href: `${base}/frames/${number}`, download: "" },
          h("img", {
            src: `${base}/frames/${number}`,
            alt: `Frame ${number}, ${bytes(frame.size_bytes)}`,
            loading: "lazy",
          }),
        ),
      ),
    ),
  );
  if (location.hash === "#frames" && frames.length) $("frames-panel").scrollIntoView();
}

$("frames-zip").addEventListener("click", async () => {
  const button = $("frames-zip");
  button.disabled = true;
  try {
    const count = $("frames").children.length;
    const files = await Promise.all(Array.from({ length: count }, (_, number) => readFrame(number)));
    save(zip(files), `${id}-frames.zip`);
  } catch {
    $("problem").textContent = "The frames cannot be read all at once from here; each of them downloads by itself.";
  } finally {
    button.disabled = false;
  }
});

async function readFrame(number) {
  const answer = await fetch(`${base}/frames/${number}`);
  if (!answer.ok) throw new Error(`frame ${number}: ${answer.status}`);
  const kind = answer.headers.get("Content-Type").replace(/^image\/|;.*/g, "");
  return { name: `${String(number).padStart(4, "0")}.${kind}`, data: new Uint8Array(await answer.arrayBuffer()) };
}

async function showTimeline() {
  const { events, attempts } = await call("GET", `${base}/timeline`);
  const begin = Date.parse(events[0]?.at);
  $("timeline").replaceChildren(
    h(
      "ol",
      { class: "timeline" },
      ...events.map((event) =>
        h(
          "li",
          {},
          h("span", { class: `badge ${event.status}` }, event.status),
          ` ${event.reason.replaceAll("_", " ")} `,
          h(
            "span",
            { class: "muted small" },
            `+${seconds((Date.parse(event.at) - begin) / 1000)}${event.attempt ? `, attempt ${event.attempt}` : ""}`,
          ),
        ),
      ),
    ),
    ...attempts.map((attempt) => h("p", { class: "small" }, attemptText(attempt))),
  );
}

function attemptText({ attempt, worker_id: worker, started_at: begin, ended_at: end, outcome, error }) {
  const took = end ? ` after ${seconds((Date.parse(end) - Date.parse(begin)) / 1000)}` : "";
  const why = error ? `: ${error.message}` : "";
  return `Attempt ${attempt}, worker ${shortId(worker)}: ${outcome ?? "under way"}${took}${why}`;
}

async function showManifest() {
  const manifest = await call("GET", `${base}/manifest`);
  if (!manifest) throw new Error();
  $("manifest-panel").hidden = false;
  $("manifest").textContent = JSON.stringify(manifest, null, 2);
  const stages = Object.entries(manifest.timings_s).filter(([, took]) => took > 0);
  const total = stages.reduce((sum, [, took]) => sum + took, 0);
  $("timings").replaceChildren(
    h(
      "ul",
      { class: "bars" },
      ...stages.map(([stage, took]) => {
        const bar = h("span", { class: "bar" });
        bar.style.width = `${(100 * took) / total}%`;
        return h(
          "li",
          {},
          h("span", { class: "row small" }, h("span", {}, stage.replaceAll("_", " ")), h("span", {}, seconds(took))),
          h("span", { class: "bar-ground" }, bar),
        );
      }),
    ),
    h(
      "p",
      { class: "small muted" },
      `${manifest.pipeline.engine} on ${manifest.pipeline.device}, ${manifest.pipeline.dtype}`,
    ),
  );
}

async function showDeliveries(job) {
  const { data } = await call("GET", `${base}/deliveries`);
  $("webhook-panel").hidden = false;
  $("webhook").replaceChildren(
    h("p", { class: "small" }, h("code", {}, job.webhook_url)),
    ...(data.length
      ? data.map((delivery) => showDelivery(job, delivery))
      : [h("p", { class: "muted" }, "Nothing has been sent: the job is not over.")]),
  );
  if (data.some((delivery) => delivery.status === "pending"))
    setTimeout(() => showDeliveries(job).catch(fail), POLL_DELIVERY_MS);
}

function showDelivery(job, delivery) {
  const again = async () => {
    try {
      await call("POST", `/v1/deliveries/${delivery.id}/redeliver`);
    } catch (error) {
      if (error.status !== 409) fail(error); // it is on its way already
    }
    await showDeliveries(job).catch(fail);
  };
  const answer = delivery.last_status_code ? `, last answer ${delivery.last_status_code}` : "";
  return h(
    "div",
    { class: "card", "data-delivery": delivery.status },
    h(
      "div",
      { class: "row" },
      h("strong", {}, delivery.event_type),
      h(
        "span",
        { class: `badge ${{ delivered: "succeeded", pending: "running" }[delivery.status] ?? "failed"}` },
        delivery.status,
      ),
    ),
    h("p", { class: "small" }, `${delivery.tries} ${delivery.tries === 1 ? "try" : "tries"}${answer}`),
    delivery.last_error && h("p", { class: "small error" }, delivery.last_error),
    delivery.next_try_at &&
      delivery.status === "pending" &&
      h("p", { class: "small muted" }, "next try ", time(delivery.next_try_at)),
    delivery.status !== "pending" && h("button", { type: "button", class: "quiet", click: again }, "Send again"),
  );
}

const start = () =>
  call("GET", base).then(take, (error) => {
    fail(error);
    if (error.status >= 500) setTimeout(start, AGAIN_MS);
  });
document.addEventListener("connection-restored", start);
start();
