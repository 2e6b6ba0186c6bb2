// How a job looks in a list and on the stage, and what can be done with it.

import { call } from "/static/api.js";
import { clip } from "/static/clip.js";
import { h, seconds, shortId, showText, time } from "/static/dom.js";
import { estimate, isOver } from "/static/live.js";

/** What CSS calls the service's ways of resizing. */
export const FITS = { crop: "cover", pad: "contain", stretch: "fill" };

/** `motion_bucket_id 180, fps 7`: what makes a cell of an experiment different from the others. */
export const valuesText = ({ grid_values: values }) =>
  Object.entries(values ?? {})
    .map(([name, value]) => `${name} ${value}`)
    .join(", ");

/** `rocket.jpg · motion_bucket_id 180`. */
export const title = (job) => [nameOf(job), valuesText(job)].filter(Boolean).join(" · ");
const nameOf = (job) => job.image_name ?? `Job ${shortId(job.id)}`;

/** The title in two parts, so that a long name does not push the values out. */
export const titleParts = (job) => [
  h("bdi", { class: "image-name" }, nameOf(job)),
  job.grid_values && h("span", { class: "grid-values" }, valuesText(job)),
];

/** Where the other cells are. */
export const experimentLink = (job, text = "experiment") =>
  job.experiment_id &&
  h("a", { href: `/experiments/${job.experiment_id}`, "aria-label": `Experiment of ${title(job)}` }, text);

export function badge(job) {
  const text = job.cancel_requested_at && !isOver(job) ? "canceling" : job.status;
  return h("span", { class: `badge ${job.status}` }, text);
}

/** One line on where a job stands. */
export function standing(job, usualS = null) {
  const left = estimate(job, usualS);
  const about = left === null ? "" : `, about ${seconds(Math.max(left, 1))} left`;
  switch (job.status) {
    case "queued":
      if (job.queue_position === null) return `Waiting${about}`;
      return job.queue_position === 0
        ? `Next in the queue${about}`
        : `${job.queue_position} before it in the queue${about}`;
    case "running": {
      if (!job.progress) return "Starting";
      const { phase, step, total_steps: total } = job.progress;
      return phase === "denoise"
        ? `Step ${step} of ${total}${about}`
        : `${phase[0].toUpperCase()}${phase.slice(1)}${about}`;
    }
    case "succeeded":
      return job.expired_at
        ? "Its files are no longer kept"
        : `Took ${seconds((Date.parse(job.finished_at) - Date.parse(job.started_at)) / 1000)}`;
    case "failed":
      return job.error?.message ?? "Failed";
    default:
      return "Canceled";
  }
}

export function progress(job) {
  if (isOver(job)) return null;
  const fraction = job.progress?.fraction ?? 0;
  return h("progress", { max: "1", value: fraction, "aria-label": `Progress of ${title(job)}` });
}

/** A job in a list; `onChoose` makes it a button, otherwise it links to its page. */
export function card(job, { onChoose, isChosen = false, usualS = null } = {}) {
  const head = onChoose
    ? h(
        "button",
        { type: "button", class: "link", "aria-pressed": String(isChosen), click: () => onChoose(job) },
        ...titleParts(job),
      )
    : h("a", { href: `/jobs/${job.id}` }, ...titleParts(job));
  return h(
    "li",
    { class: "card", "data-job": job.id, "data-status": job.status },
    h("div", { class: "row" }, head, badge(job)),
    h("p", { class: "small" }, standing(job, usualS)),
    progress(job),
    h("p", { class: "small muted" }, job.model, " · ", time(job.created_at), job.experiment_id && " · ", experimentLink(job)),
  );
}

/** Give an element the video's shape, and as much room as a part of the window's height (vh) leaves it. */
export function shape(element, { width, height }, share) {
  element.style.aspectRatio = `${width} / ${height}`;
  element.style.maxWidth = `calc(${share}vh * ${width / height})`;
}

/** The image and, when there is one, the video beside it. */
export function sideBySide(job) {
  const { width, height, resize_mode: mode } = job.params;
  const inShape = (element) => {
    shape(element, job.params, 70);
    return element;
  };
  const picture =
    job.input_id && h("img", { src: `/v1/inputs/${job.input_id}/image`, alt: "The image that the video starts from" });
  if (picture) inShape(picture).style.objectFit = FITS[mode];
  const image = picture
    ? h("figure", {}, picture, h("figcaption", {}, `Image, ${width} × ${height} px, ${mode}`))
    : null;
  const video = job.links.video
    ? h(
        "figure",
        {},
        inShape(clip(job.id, { label: `Video of ${title(job)}` })),
        h("figcaption", {}, `Video, ${job.result.num_frames} frames, ${job.result.duration_s.toFixed(1)} s`),
      )
    : isOver(job)
      ? null
      : // Where it will be: nothing moves when it comes.
        h("figure", {}, inShape(h("p", { class: "empty video-place" }, "The video will play here.")));
  for (const media of [image?.firstChild, video?.firstChild]) {
    media?.addEventListener("error", () =>
      media.replaceWith(h("p", { class: "empty" }, "This file cannot be shown; it may be no longer kept.")),
    );
  }
  return h("div", { class: "side-by-side" }, image, video);
}

/**
 * What can be done with a job.
 * @param {object} job
 * @param {{onChange: (job: object | null) => void, onError: (error: Error) => void}} told null: deleted
 */
export function actions(job, { onChange, onError }) {
  const base = `/v1/jobs/${job.id}`;
  const run = (method, path) => async () => {
    try {
      onChange(await call(method, path));
    } catch (error) {
      onError(error);
    }
  };
  const button = (text, click) => h("button", { type: "button", class: "quiet", click }, text);
  const link = (text, href, download) => h("a", { class: "button quiet", href, download }, text);
  const erase = () => confirm("Delete this job, its video and its parameters?") && run("DELETE", base)();
  return h(
    "div",
    { class: "actions" },
    job.links.video &&
      h("a", { class: "button primary", href: `${base}/video`, download: `${job.id}.mp4` }, "Download MP4"),
    job.links.video && link("Manifest", `${base}/manifest`, `${job.id}.json`),
    job.result?.frames.length ? link(`Frames (${job.result.frames.length})`, `/jobs/${job.id}#frames`) : null,
    !isOver(job) && !job.cancel_requested_at && button("Cancel", run("POST", `${base}/cancel`)),
    job.input_id && link("Run again with…", `/?from=${job.id}`),
    job.input_id && link("Sweep this", `/?from=${job.id}&sweep=1`),
    button("Copy as curl", () => showText("As curl", asCurl(job))),
    button("Copy as command", () => showText("As command", asCommand(job))),
    isOver(job) && button("Delete", erase),
  );
}

const quote = (value) => (/^[\w.,:/@=-]+$/.test(value) ? value : `'${String(value).replaceAll("'", "'\\''")}'`);

/** The request that makes this job again, with the key left to the environment. */
export function asCurl(job) {
  const body = { input_id: job.input_id, model: job.model, ...job.params };
  return [
    `curl ${quote(`${location.origin}/v1/jobs`)} \\`,
    `  -H "Authorization: Bearer $ANIMATIC_API_KEY" -H 'Content-Type: application/json' \\`,
    `  --data ${quote(JSON.stringify(body))}`,
  ].join("\n");
}

/** The same for the command line, which takes the photo itself. */
export function asCommand(job) {
  const options = Object.entries(job.params).map(
    ([name, value]) => `--${name.replaceAll("_", "-")} ${quote(String(value))}`,
  );
  const photo = quote(job.image_name ?? "photo.jpg");
  return `animatic submit ${photo} --url ${location.origin} --model ${job.model} --wait -o video.mp4 \\\n  ${options.join(" ")}`;
}
