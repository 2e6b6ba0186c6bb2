// The cells of an experiment: rows of images, columns of values; or all in the order of a measure.

import { $, h } from "/static/dom.js";
import { valuesText } from "/static/job_view.js";
import { measure, MEASURES, show } from "/static/measures.js";

/** Cells of one image. */
export const countPoints = ({ grid }) => Object.values(grid).reduce((count, values) => count * values.length, 1);

export const columnTitles = (experiment, cells) =>
  cells.slice(0, countPoints(experiment)).map(({ cell }) => valuesText(cell));

export class CellGrid {
  /** What is on the page, in reading order. */
  #order = [];
  /** The cell that Tab leads to. */
  #current = null;

  /**
   * @param {object} experiment as the API has it
   * @param {Map<number, Cell>} cells by index
   */
  constructor(experiment, cells) {
    Object.assign(this, { experiment, cells });
    const titles = Object.entries(MEASURES).map(([name, { name: title }]) => [name, title]);
    $("order").append(
      ...titles.flatMap(([name, title]) => [
        h("option", { value: `${name} 1` }, `${title}, least first`),
        h("option", { value: `${name} -1` }, `${title}, most first`),
      ]),
    );
    $("measure").append(...titles.map(([name, title]) => h("option", { value: name }, title)));
    for (const name of ["order", "measure", "low", "high", "favourites"])
      $(name).addEventListener("input", () => this.arrange());
  }

  /** Show what fits the filters, in the order that is asked for. */
  arrange() {
    const fitting = [...this.cells.values()].filter(fits);
    const focused = document.activeElement?.closest?.(".cell");
    if ($("order").value) this.#showSorted(fitting);
    else this.#showTable(fitting);
    $("shown").textContent =
      fitting.length === this.cells.size
        ? `${this.cells.size} cells`
        : `${fitting.length} of ${this.cells.size} cells`;
    this.#rove();
    focused?.focus({ preventScroll: true });
  }

  /** @param {Cell} cell is pointed at, or has the focus */
  choose(cell) {
    this.#current = cell;
    this.#rove();
  }

  /** The cell that an arrow key leads to, if any. */
  beside(cell, key) {
    const width = $("order").value ? 1 : countPoints(this.experiment);
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -width, ArrowDown: width }[key];
    return this.#order[this.#order.indexOf(cell) + step];
  }

  #showSorted(fitting) {
    const [name, direction] = $("order").value.split(" ");
    const value = (cell) => measure(cell.cell.job, name);
    this.#order = fitting.sort(
      (a, b) => (value(a) === null) - (value(b) === null) || (value(a) - value(b)) * Number(direction),
    );
    const items = this.#order.map((cell) =>
      h(
        "li",
        {},
        cell.element,
        h("p", { class: "small" }, `${cell.imageName}, ${valuesText(cell.cell)}: `, h("strong", {}, show(value(cell)))),
      ),
    );
    for (const cell of this.#order) cell.element.classList.remove("out");
    $("cells").replaceChildren(h("ol", { class: "sorted" }, ...items));
  }

  #showTable(fitting) {
    const shown = new Set(fitting);
    this.#order = [...this.cells.values()];
    for (const cell of this.#order) cell.element.classList.toggle("out", !shown.has(cell));
    const width = countPoints(this.experiment);
    const rows = this.experiment.images.map(({ name, input_id: inputId }, row) => {
      const picture = h("img", { src: `/v1/inputs/${inputId}/image`, alt: "", loading: "lazy" });
      const own = this.#order.slice(row * width, (row + 1) * width);
      return h("tr", {}, h("th", { scope: "row" }, picture, name), ...own.map((cell) => h("td", {}, cell.element)));
    });
    $("cells").style.setProperty("--columns", String(width));
    $("cells").replaceChildren(
      h("table", { class: "grid-table" }, gridHead(this.experiment), h("tbody", {}, ...rows)),
    );
  }

  #rove() {
    const target = this.#order.includes(this.#current) ? this.#current : this.#order[0];
    for (const cell of this.cells.values()) cell.element.tabIndex = cell === target ? 0 : -1;
  }
}

/** A row of headings per axis, each over the columns of the axes below it. */
function gridHead(experiment) {
  let columns = 1;
  const rows = Object.entries(experiment.grid).map(([name, values]) => {
    const over = columns;
    columns *= values.length;
    const span = countPoints(experiment) / columns;
    const titles = Array.from({ length: over }, () => values).flat();
    const cells = titles.map((value) =>
      h("th", { scope: span > 1 ? "colgroup" : "col", colspan: String(span) }, String(value)),
    );
    const parts = name.split(/(?<=_)/).flatMap((part) => [part, h("wbr")]);
    return h("tr", {}, h("th", { scope: "row" }, ...parts), ...cells);
  });
  return h("thead", {}, ...rows);
}

function fits(cell) {
  if ($("favourites").checked && !cell.isFavourite) return false;
  const value = measure(cell.cell.job, $("measure").value);
  const [low, high] = [$("low").value, $("high").value];
  if (low !== "" && (value === null || value < Number(low))) return false;
  return high === "" || (value !== null && value <= Number(high));
}
