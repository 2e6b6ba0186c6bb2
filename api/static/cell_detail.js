// What is known of the cell that is pointed at.

import { $, h, shortId } from "/static/dom.js";
import { valuesText } from "/static/job_view.js";
import { measure, MEASURES, show } from "/static/measures.js";

/** @param {Cell} made */
export function showDetail({ cell, imageName }) {
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
