// A video as this page shows it: silent, in a loop, and still where motion is not wanted.

import { h, movesFreely } from "/static/dom.js";

/**
 * @param {string} jobId
 * @param {{controls?: boolean, plays?: boolean, label: string}} options
 * @returns {HTMLVideoElement}
 */
export function clip(jobId, { controls = true, plays = true, label }) {
  const video = h("video", {
    src: `/v1/jobs/${jobId}/video`,
    muted: true,
    loop: true,
    playsinline: true,
    controls,
    preload: plays ? "auto" : "metadata",
    "aria-label": label,
  });
  if (plays && movesFreely()) video.autoplay = true;
  return video;
}
