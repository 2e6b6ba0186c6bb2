// How an experiment stands, and what may be done to it now.

import { $, h, seconds } from "/static/dom.js";

/** @param {object} experiment as the API has it */
export function showStatus(experiment) {
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

/** It was deleted, or never was. */
export function showGone() {
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
