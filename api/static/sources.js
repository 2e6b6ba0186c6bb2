// The images that videos are made from: picked, dropped or pasted, or taken over from an earlier job.

import { FITS, shape } from "/static/job_view.js";
import { $, announce, bytes, h, plural } from "/static/dom.js";

const FORMATS = "PNG, JPEG, WebP, GIF, TIFF, BMP and AVIF";

export class Sources {
  /**
   * @param {number} maxBytes the largest body that the API takes
   * @param {() => void} onChange
   */
  constructor(maxBytes, onChange) {
    /** @type {{file?: File, input_id?: string, name: string, url: string, hasNoPreview?: boolean}[]} */
    this.items = [];
    this.chosen = 0;
    this.maxBytes = maxBytes;
    this.onChange = onChange;
    $("pick").addEventListener("change", () => {
      this.add([...$("pick").files]);
      $("pick").value = "";
    });
    addEventListener("paste", (event) => this.add([...event.clipboardData.files]));
    addEventListener("dragover", (event) => {
      event.preventDefault();
      $("drop").classList.add("over");
    });
    for (const name of ["dragleave", "drop"]) {
      addEventListener(name, () => $("drop").classList.remove("over"));
    }
    addEventListener("drop", (event) => {
      event.preventDefault();
      this.add([...event.dataTransfer.files]);
    });
  }

  add(files) {
    if (!files.length) return;
    const refused = [];
    for (const file of files) {
      if (file.type && !file.type.startsWith("image/")) {
        refused.push(`${file.name} is not an image; ${FORMATS} work.`);
      } else if (file.size > this.maxBytes) {
        refused.push(`${file.name} has ${bytes(file.size)}; this service takes up to ${bytes(this.maxBytes)}.`);
      } else this.items.push({ file, name: file.name, url: URL.createObjectURL(file) });
    }
    this.say(refused.join(" "));
    this.chosen = this.items.length - 1;
    this.#show();
    if (this.items.length) announce(`${plural(this.items.length, "image")} chosen`);
  }

  /** Take over an image that the service has already. */
  addInput(inputId, name) {
    this.items = [{ input_id: inputId, name, url: `/v1/inputs/${inputId}/image` }];
    this.chosen = 0;
    this.#show();
  }

  say(text) {
    $("image-error").textContent = text;
  }

  get current() {
    return this.items[this.chosen];
  }

  #remove(index) {
    const [gone] = this.items.splice(index, 1);
    if (gone.file) URL.revokeObjectURL(gone.url);
    this.chosen = Math.min(this.chosen, this.items.length - 1);
    this.#show();
    $("pick").focus();
  }

  #show() {
    $("sources").replaceChildren(
      ...this.items.map((item, index) => {
        const choose = () => {
          this.chosen = index;
          this.#show();
        };
        const picture = h("img", { src: item.url, alt: "" });
        // TIFF, for one: the service reads more formats than browsers do.
        picture.addEventListener("error", () => {
          picture.replaceWith(h("span", { class: "no-preview" }, "no preview"));
          item.hasNoPreview = true;
          if (item === this.current) this.onChange();
        });
        return h(
          "li",
          {},
          h(
            "button",
            { type: "button", class: "pick", "aria-pressed": String(index === this.chosen), click: choose },
            picture,
            h("span", { class: "name" }, item.name),
          ),
          h(
            "button",
            { type: "button", class: "remove", "aria-label": `Remove ${item.name}`, click: () => this.#remove(index) },
            "×",
          ),
        );
      }),
    );
    this.onChange();
  }
}

/** Show which part of the image the video will start from. */
export function showCrop(item, params) {
  const figure = $("crop");
  figure.hidden = !item || !params || item.hasNoPreview === true;
  if (figure.hidden) return;
  const picture = figure.querySelector("img");
  const frame = figure.querySelector(".crop-frame");
  if (picture.getAttribute("src") !== item.url) picture.src = item.url;
  shape(frame, params, 50);
  picture.style.objectFit = FITS[params.resize_mode];
  figure.querySelector("figcaption").textContent =
    `Starts from this: ${params.width} × ${params.height} px, ${params.resize_mode}`;
}
