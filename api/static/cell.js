// One cell of an experiment: its video, or where its job stands.

import { clip } from "/static/clip.js";
import { h } from "/static/dom.js";
import { progress, shape, standing, valuesText } from "/static/job_view.js";
import { measure, MEASURES, show } from "/static/measures.js";

export class Cell {
  /**
   * @param {object} cell as the API has it
   * @param {string} imageName
   * @param {{inStep: object, near: IntersectionObserver, isFavourite: boolean, onFavourite: () => void, onShow: () => void}} told
   */
  constructor(cell, imageName, told) {
    Object.assign(this, { imageName, told, state: "" });
    this.body = h("div", { class: "cell-body" });
    this.star = h("button", { type: "button", class: "star", tabindex: "-1", click: () => this.toggle() }, "★");
    this.element = h(
      "div",
      { class: "cell", role: "group", tabindex: "-1", "data-cell": String(cell.index) },
      this.body,
      this.star,
    );
    for (const name of ["focusin", "pointerenter"]) this.element.addEventListener(name, told.onShow);
    this.element.addEventListener("pointermove", (event) => this.#scrub(event));
    this.favourite(told.isFavourite);
    this.update(cell);
  }

  update(cell) {
    this.cell = cell;
    const { job } = cell;
    this.element.dataset.status = cell.status;
    this.element.setAttribute("aria-label", this.description());
    if (job) shape(this.body, job.params, 70);
    if (!job?.links.video) this.body.style.maxWidth = ""; // room for words
    const state = JSON.stringify([cell.status, job?.id, job?.progress, job?.links.video]);
    if (state === this.state) return;
    this.state = state;
    if (this.video) this.told.inStep.remove(this.video);
    this.video = null;
    if (job?.links.video) {
      this.video = clip(job.id, { controls: false, plays: false, label: this.description() });
      this.video.removeAttribute("src");
      this.told.near.observe(this.video);
      this.body.replaceChildren(this.video);
    } else {
      const text = job ? standing(job) : "Its job was deleted";
      this.body.replaceChildren(h("p", { class: "small" }, text), ...(job && progress(job) ? [progress(job)] : []));
    }
  }

  /** It is about to be seen. */
  load() {
    if (!this.video || this.video.hasAttribute("src")) return;
    this.video.preload = "auto";
    this.video.src = `/v1/jobs/${this.cell.job.id}/video`;
    this.told.inStep.add(this.video);
  }

  description() {
    const known = Object.entries(MEASURES)
      .map(([name, { name: title }]) => [title, measure(this.cell.job, name)])
      .filter(([, value]) => value !== null)
      .map(([title, value]) => `${title} ${show(value)}`);
    return [this.imageName, valuesText(this.cell), this.cell.status, ...known].join(", ");
  }

  toggle() {
    this.favourite(!this.isFavourite);
    this.told.onFavourite();
  }

  favourite(isFavourite) {
    this.isFavourite = isFavourite;
    this.star.setAttribute("aria-pressed", String(isFavourite));
    this.star.setAttribute(
      "aria-label",
      `Favourite: ${this.imageName}, ${valuesText(this.cell ?? { grid_values: {} })}`,
    );
  }

  /** Drawn across with the button down: the place in the cell is the place in the video, of all of them. */
  #scrub(event) {
    if (!(event.buttons & 1) || !this.video) return;
    const box = this.element.getBoundingClientRect();
    this.told.inStep.seek(((event.clientX - box.left) / box.width) * this.told.inStep.duration);
  }
}
