// Jobs as they change: two by server-sent events, the others, and those whose stream is cut, by asking.
//
// Only two, since a browser opens six connections to a host over HTTP/1.1, and videos need some.

import { call, Problem } from "/static/api.js";

const STREAMS = 2;
const POLL_MS = 2000;
export const isOver = (job) => ["succeeded", "failed", "canceled"].includes(job.status);

export class LiveJobs {
  /**
   * @param {(job: object) => void} onJob told at each change
   * @param {(id: string) => void} onGone told when a job is no longer there
   */
  constructor(onJob, onGone) {
    Object.assign(this, { onJob, onGone, watched: new Set(), streams: new Map() });
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#pause() : this.#fill()));
    document.addEventListener("connection-restored", () => this.#poll());
    addEventListener("pagehide", () => this.#pause());
  }

  /** Follow a job until it is over. */
  watch(job) {
    if (isOver(job) || this.watched.has(job.id)) return;
    this.watched.add(job.id);
    this.#fill();
  }

  unwatch(id) {
    this.watched.delete(id);
    this.streams.get(id)?.close();
    this.streams.delete(id);
    this.#fill();
  }

  #fill() {
    if (document.hidden) return;
    for (const id of this.watched) {
      if (this.streams.size >= STREAMS) break;
      if (!this.streams.has(id)) this.#open(id);
    }
    this.timer ??= this.watched.size ? setInterval(() => this.#poll(), POLL_MS) : undefined;
    if (!this.watched.size) this.#pause();
  }

  #open(id) {
    const stream = new EventSource(`/v1/jobs/${id}/events`);
    this.streams.set(id, stream);
    stream.addEventListener("job", (event) => this.#take(JSON.parse(event.data)));
    stream.addEventListener("error", () => {
      // A cut one connects again by itself, and is asked for meanwhile; a refused one does not.
      if (stream.readyState === EventSource.CLOSED) this.#poll();
    });
  }

  #take(job) {
    this.onJob(job);
    if (isOver(job)) this.unwatch(job.id);
  }

  async #poll() {
    for (const id of [...this.watched]) {
      if (this.streams.get(id)?.readyState === EventSource.OPEN) continue;
      try {
        this.#take(await call("GET", `/v1/jobs/${id}`));
      } catch (problem) {
        if (!(problem instanceof Problem)) return; // the banner says so
        if (problem.status === 404) {
          this.unwatch(id);
          this.onGone(id);
        } else if (problem.status === 401) this.#pause();
      }
    }
  }

  #pause() {
    for (const stream of this.streams.values()) stream.close();
    this.streams.clear();
    clearInterval(this.timer);
    this.timer = undefined;
  }
}

/**
 * Seconds until a job is done, from how it goes and how others went; null: nobody can tell yet.
 * @param {object} job
 * @param {number | null} usualS what jobs of this model took lately
 */
export function estimate(job, usualS) {
  if (job.status === "running" && job.progress && job.progress.fraction > 0.05) {
    const elapsed = (Date.now() - Date.parse(job.started_at)) / 1000;
    return Math.max(0, elapsed / job.progress.fraction - elapsed);
  }
  // Lists do not tell the place in the queue.
  if (job.status === "queued" && usualS !== null && job.queue_position !== null)
    return (job.queue_position + 1) * usualS;
  return null;
}

/** What a model's jobs took lately, seconds: the median of those that succeeded; null: none did. */
export function usual(jobs, model) {
  const took = jobs
    .filter((job) => job.model === model && job.status === "succeeded")
    .map((job) => (Date.parse(job.finished_at) - Date.parse(job.started_at)) / 1000)
    .sort((a, b) => a - b);
  return took.length ? took[Math.floor(took.length / 2)] : null;
}
