// The measures of a video, for people; docs/measures.md has the formulas.

export const MEASURES = {
  flow_px: { name: "Motion", unit: "px per frame" },
  jerkiness_px: { name: "Jerkiness", unit: "px per frame²" },
  flicker: { name: "Flicker", unit: "levels" },
  first_frame_ssim: { name: "First frame's likeness", unit: "SSIM" },
  drift: { name: "Drift", unit: "1 − cosine" },
};

/** A cell's or job's measure; null: not there. */
export function measure(job, name) {
  const value = job?.measures?.[name];
  return typeof value === "number" ? value : null;
}

export const show = (value) => (value === null ? "–" : Number(value.toPrecision(3)).toString());
