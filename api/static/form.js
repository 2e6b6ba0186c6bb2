// The parameters' form: defaults and limits of the chosen model, the API's own words beside each field.

import { call, Problem } from "/static/api.js";
import { $, h } from "/static/dom.js";

const TRY_AFTER_MS = 300;

/** Changes to a model's own defaults, for those who do not want to learn the parameters first. */
const PRESETS = {
  "Model's own": () => ({}),
  Draft: (d) => ({ num_inference_steps: Math.max(1, Math.round(d.num_inference_steps / 2)) }),
  Calm: () => ({ motion_bucket_id: 60, noise_aug_strength: 0.02 }),
  Lively: () => ({ motion_bucket_id: 200, noise_aug_strength: 0.05 }),
};

export class ParameterForm {
  /**
   * @param {HTMLFormElement} form
   * @param {(params: object) => void} onResolved told the parameters as a job would run with them
   */
  constructor(form, onResolved) {
    this.form = form;
    this.onResolved = onResolved;
    this.models = new Map();
    this.fields = [...form.querySelectorAll(".fields [name]")];
    form.addEventListener("input", (event) => {
      if (event.target.name === "model") this.#takeModel();
      this.#tryLater();
    });
    form.addEventListener("reset", (event) => {
      event.preventDefault();
      this.fill({});
    });
  }

  /** Read the catalogue; the first model is the default. */
  async load() {
    const { data } = await call("GET", "/v1/models");
    this.models = new Map(data.map((model) => [model.id, model]));
    $("model").replaceChildren(...data.map((model) => h("option", { value: model.id }, model.id)));
    $("presets").replaceChildren(
      ...Object.entries(PRESETS).map(([name, changes]) =>
        h("button", { type: "button", class: "chip", click: () => this.fill(changes(this.model.defaults)) }, name),
      ),
    );
    this.#takeModel();
    this.fill({});
  }

  get model() {
    return this.models.get($("model").value);
  }

  /** Show the model's defaults with these values over them. */
  fill(values, modelName) {
    if (modelName && this.models.has(modelName)) {
      $("model").value = modelName;
      this.#takeModel();
    }
    for (const field of this.fields) field.value = values[field.name] ?? this.#default(field.name);
    this.#try();
  }

  /** What differs from the model's defaults; the API fills in the rest. */
  values() {
    const chosen = {};
    for (const field of this.fields) {
      const text = field.value.trim();
      if (text === "" || text === String(this.#default(field.name))) continue;
      chosen[field.name] = field.tagName === "SELECT" ? text : Number(text);
    }
    return chosen;
  }

  /** Put a problem's sentences beside the fields that it names; returns those that name none here. */
  showProblem(problem) {
    const elsewhere = [];
    const errors = problem.errors?.length ? problem.errors : [{ field: "", message: problem.message }];
    for (const { field, message } of errors) {
      if (!this.#showError(field, message)) elsewhere.push(message);
    }
    this.form.querySelector('[aria-invalid="true"]')?.focus();
    return elsewhere;
  }

  clearErrors() {
    for (const field of [...this.fields, $("model")]) this.#showError(field.name, "");
  }

  #default(name) {
    // A seed is drawn for each job.
    return name === "seed" ? "" : (this.model?.defaults[name] ?? "");
  }

  #takeModel() {
    const { model } = this;
    if (!model) return;
    const workers = model.workers === 1 ? "1 worker ready" : `${model.workers} workers ready`;
    const ready = model.workers ? workers : "No worker is there: jobs wait until one starts";
    $("model-help").textContent = `${model.title}. ${ready}, ${model.queued} waiting. Licence: ${model.licence}.`;
    for (const field of this.fields) {
      if (field.name === "num_frames") field.max = model.limits.max_num_frames;
      field.placeholder = field.name === "seed" ? "drawn" : String(this.#default(field.name));
      const range = $(`${field.name}-help`).querySelector(".range");
      if (range && field.name !== "seed") range.textContent = `${field.min}–${field.max}`;
    }
  }

  #tryLater() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#try(), TRY_AFTER_MS);
  }

  async #try() {
    clearTimeout(this.timer);
    this.trying?.abort();
    this.trying = new AbortController();
    const { signal } = this.trying;
    try {
      const path = `/v1/models/${encodeURIComponent(this.model.id)}/resolve`;
      const { params, warnings } = await call("POST", path, { json: this.values(), signal });
      this.clearErrors();
      $("warnings").replaceChildren(...warnings.map((text) => h("li", {}, text)));
      this.onResolved(params);
    } catch (problem) {
      if (!(problem instanceof Problem) || problem.status !== 422) return;
      this.clearErrors();
      for (const { field, message } of problem.errors) this.#showError(field, message);
    }
  }

  #showError(name, message) {
    const field = name && this.form.elements.namedItem(name);
    const place = name && $(`${name}-error`);
    if (!field || !place) return false;
    place.textContent = message;
    if (message) {
      field.setAttribute("aria-invalid", "true");
      field.closest("details")?.setAttribute("open", "");
    } else field.removeAttribute("aria-invalid");
    return true;
  }
}
