// The experiments, newest first.

import { call } from "/static/api.js";
import { $, few, h, seconds, time } from "/static/dom.js";
import "/static/page.js";

const POLL_MS = 3000;
const PAGE = 20;
let count = PAGE;

function item(experiment) {
  const { counts } = experiment;
  const sweeps = Object.entries(experiment.grid)
    .map(([name, values]) => `${name}: ${few(values)}`)
    .join(" × ");
  const left = experiment.eta_s === null ? "" : `, about ${seconds(Math.max(1, experiment.eta_s))} left`;
  return h(
    "li",
    { class: "card" },
    h(
      "div",
      { class: "row" },
      h("a", { href: `/experiments/${experiment.id}` }, experiment.name),
      h("span", { class: `badge ${experiment.status === "finished" ? "succeeded" : "running"}` }, experiment.status),
    ),
    h(
      "p",
      { class: "small" },
      `${counts.succeeded} of ${counts.total} videos${counts.failed ? `, ${counts.failed} failed` : ""}${left}`,
    ),
    experiment.status !== "finished" &&
      h("progress", { max: "1", value: experiment.progress, "aria-label": `Progress of ${experiment.name}` }),
    h(
      "p",
      { class: "small muted" },
      `${few(experiment.images.map(({ name }) => name))} · ${sweeps} · ${experiment.model} · `,
      time(experiment.created_at),
    ),
  );
}

async function refresh() {
  try {
    const page = await call("GET", `/v1/experiments?limit=${count}`);
    const items = page.data.map(item);
    $("experiments").replaceChildren(
      ...(items.length
        ? items
        : [
            h(
              "li",
              { class: "empty" },
              "No experiments yet. ",
              h("a", { href: "/?sweep=1" }, "Start one in Studio"),
              ".",
            ),
          ]),
    );
    $("more").hidden = !page.has_more || count >= 100;
    if (page.data.every(({ status }) => status === "finished")) return;
  } catch (error) {
    if (error.status) $("experiments").replaceChildren(h("li", { class: "empty" }, error.message));
    if (error.status < 500) return;
  }
  setTimeout(refresh, POLL_MS);
}

$("more").addEventListener("click", () => {
  count = Math.min(100, count + PAGE);
  refresh();
});
refresh();
