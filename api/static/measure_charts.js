// The charts of an experiment: each measure against a swept parameter.

import { chart, LINES } from "/static/chart.js";
import { $, h } from "/static/dom.js";
import { measure, MEASURES } from "/static/measures.js";

/** Draw each measure that is known against the chosen parameter. */
export function showCharts(experiment, cells) {
  const axis = $("axis").value;
  const values = experiment.grid[axis] ?? [];
  $("legend").replaceChildren(
    ...experiment.images.map(({ name }, index) => h("li", { class: `line-${index % LINES}` }, name)),
  );
  const charts = Object.entries(MEASURES).map(([name, { name: title, unit }]) => {
    const lines = experiment.images.map((image) => ({
      name: image.name,
      points: means(cells, image.index, axis, values, name),
    }));
    if (!lines.some((line) => line.points.length)) return null;
    return h(
      "figure",
      {},
      h("figcaption", {}, `${title}, ${unit}`),
      chart(lines, { values, xLabel: axis, yLabel: title }),
    );
  });
  const known = charts.filter(Boolean);
  $("charts").replaceChildren(
    ...(known.length ? known : [h("p", { class: "empty" }, "Drawn when videos have been measured.")]),
  );
}

/** A measure by the value of one axis, averaged over the others. */
function means(cells, imageIndex, axis, values, name) {
  return values.flatMap((x) => {
    const found = cells
      .filter((cell) => cell.image_index === imageIndex && cell.grid_values[axis] === x)
      .map((cell) => measure(cell.job, name))
      .filter((value) => value !== null);
    return found.length ? [{ x, y: found.reduce((sum, value) => sum + value, 0) / found.length }] : [];
  });
}
