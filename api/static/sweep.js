// Sweep this: every value of a parameter on every image, as one experiment.

import { call, newKey, Problem } from "/static/api.js";
import { $, h, plural } from "/static/dom.js";

const MOST = 100;

/**
 * The values that a text stands for: `120, 180, 240`, or `100..300 / 5` for five of them evenly.
 * @returns {(number | string)[]}
 */
export function readValues(text) {
  const range = text.match(/^\s*(-?[\d.]+)\s*\.\.\s*(-?[\d.]+)\s*\/\s*(\d+)\s*$/);
  if (range) {
    const [low, high, count] = range.slice(1).map(Number);
    const isWhole = Number.isInteger(low) && Number.isInteger(high);
    return Array.from({ length: Math.min(count, MOST) }, (_, index) => {
      const value = count === 1 ? low : low + ((high - low) * index) / (count - 1);
      return isWhole ? Math.round(value) : Number(value.toFixed(4));
    });
  }
  const parts = text
    .split(",")
    .map((part) => part.trim())
    .filter(Boolean);
  return parts.map((part) => (Number.isNaN(Number(part)) ? part : Number(part)));
}

export class Sweep {
  /**
   * @param {import("/static/sources.js").Sources} sources
   * @param {import("/static/form.js").ParameterForm} form
   */
  constructor(sources, form) {
    Object.assign(this, { sources, form });
    $("sweep-axis").replaceChildren(...form.fields.map(({ name }) => h("option", {}, name)));
    $("sweep-axis").value = "motion_bucket_id";
    $("sweep").addEventListener("input", () => this.show());
    $("sweep-start").addEventListener("click", () => this.#start());
    this.show();
  }

  /** Say how many videos it would be. */
  show() {
    const images = this.sources.items.length;
    const values = readValues($("sweep-values").value).length;
    $("sweep-count").textContent =
      `${plural(images, "image")} × ${plural(values, "value")} = ${plural(images * values, "video")}`;
  }

  async #start() {
    const { items } = this.sources;
    const error = $("sweep-error");
    error.textContent = "";
    if (!items.length) {
      error.textContent = "Choose an image first.";
      return;
    }
    const button = $("sweep-start");
    button.disabled = true;
    try {
      for (const source of items) await upload(source);
      const experiment = await call("POST", "/v1/experiments", {
        json: this.#request(),
        headers: { "Idempotency-Key": (this.key ??= newKey()) },
      });
      location.assign(`/experiments/${experiment.id}`);
    } catch (problem) {
      error.textContent = problem.message;
      if (problem instanceof Problem) this.key = undefined;
    } finally {
      button.disabled = false;
    }
  }

  #request() {
    const axis = $("sweep-axis").value;
    const base = this.form.values();
    delete base[axis];
    const names = new Map();
    const images = this.sources.items.map(({ name, input_id: inputId }) => {
      // Two photos may have the same name.
      const seen = (names.get(name) ?? 0) + 1;
      names.set(name, seen);
      return { input_id: inputId, name: seen === 1 ? name.slice(0, 90) : `${name.slice(0, 90)} (${seen})` };
    });
    const name =
      $("sweep-name").value.trim() || `${axis} on ${images.map((image) => image.name).join(", ")}`.slice(0, 100);
    return { name, model: this.form.model.id, images, grid: { [axis]: readValues($("sweep-values").value) }, base };
  }
}

async function upload(source) {
  if (source.input_id) return;
  const form = new FormData();
  form.append("image", source.file);
  source.input_id = (await call("POST", "/v1/inputs", { form })).id;
}
