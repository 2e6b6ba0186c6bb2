// A small chart of one measure against one swept parameter: a line per image.

import { show } from "/static/measures.js";

const NS = "http://www.w3.org/2000/svg";
const WIDTH = 320;
const HEIGHT = 190;
const PAD = { left: 46, right: 12, top: 10, bottom: 40 };
export const LINES = 6;

/**
 * @param {{name: string, points: {x: unknown, y: number}[]}[]} lines
 * @param {{values: unknown[], xLabel: string, yLabel: string}} axes
 * @returns {SVGElement}
 */
export function chart(lines, { values, xLabel, yLabel }) {
  const heights = lines.flatMap(({ points }) => points.map(({ y }) => y));
  const [low, high] = extent(heights);
  const isNumeric = values.every((value) => typeof value === "number");
  const [first, last] = isNumeric ? extent(values) : [0, Math.max(1, values.length - 1)];
  const across = (x) =>
    PAD.left + (((isNumeric ? x : values.indexOf(x)) - first) / (last - first)) * (WIDTH - PAD.left - PAD.right);
  const up = (y) => HEIGHT - PAD.bottom - ((y - low) / (high - low)) * (HEIGHT - PAD.top - PAD.bottom);
  const root = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    role: "img",
    "aria-label": summary(lines, xLabel, yLabel),
  });
  for (const y of [low, (low + high) / 2, high]) {
    root.append(svg("line", { class: "grid", x1: PAD.left, x2: WIDTH - PAD.right, y1: up(y), y2: up(y) }));
    root.append(svg("text", { x: PAD.left - 6, y: up(y) + 4, "text-anchor": "end" }, show(y)));
  }
  for (const x of values.length > 6 ? [values[0], values[values.length - 1]] : values) {
    root.append(svg("text", { x: across(x), y: HEIGHT - PAD.bottom + 18, "text-anchor": "middle" }, String(x)));
  }
  root.append(svg("text", { x: (PAD.left + WIDTH - PAD.right) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, xLabel));
  for (const [index, { name, points }] of lines.entries()) {
    const group = svg("g", { class: `line line-${index % LINES}` });
    group.append(svg("polyline", { points: points.map(({ x, y }) => `${across(x)},${up(y)}`).join(" ") }));
    for (const { x, y } of points) {
      const dot = svg("circle", { cx: across(x), cy: up(y), r: 3.5 });
      dot.append(svg("title", {}, `${name}: ${show(y)} at ${x}`));
      group.append(dot);
    }
    root.append(group);
  }
  return root;
}

function extent(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = low === high ? Math.abs(low) * 0.1 || 1 : 0;
  return [low - room, high + room];
}

/** What a picture of lines says, in words. */
function summary(lines, xLabel, yLabel) {
  const said = lines
    .filter(({ points }) => points.length)
    .map(({ name, points }) => `${name} from ${show(points[0].y)} to ${show(points[points.length - 1].y)}`);
  return `${yLabel} against ${xLabel}: ${said.join("; ")}`;
}

function svg(name, attributes, text) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}
