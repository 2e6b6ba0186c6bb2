// Many videos by one clock: they play in step, and whoever scrubs one scrubs all.

import { movesFreely } from "/static/dom.js";

/** How far a video may stray from the clock before it is set right, seconds: about half a frame. */
const DRIFT_S = 0.07;
const LOOK_MS = 200;

export class InStep {
  /** @param {(fraction: number, isPlaying: boolean) => void} onTick told where the clock is */
  constructor(onTick) {
    Object.assign(this, { onTick, videos: new Set(), isPlaying: false, at: 0, since: 0 });
    document.addEventListener("visibilitychange", () => document.hidden && this.pause());
  }

  add(video) {
    this.videos.add(video);
    video.loop = false;
    video.addEventListener("loadedmetadata", () => this.#set(video, this.time));
    if (this.videos.size === 1 && movesFreely()) this.play();
  }

  remove(video) {
    this.videos.delete(video);
  }

  /** Of the longest, seconds. */
  get duration() {
    return Math.max(0, ...[...this.videos].map((video) => video.duration || 0));
  }

  /** Where the clock is, seconds. */
  get time() {
    if (!this.isPlaying || !this.duration) return this.at;
    return (this.at + (performance.now() - this.since) / 1000) % this.duration;
  }

  play() {
    if (this.isPlaying) return;
    this.isPlaying = true;
    this.since = performance.now();
    this.timer = setInterval(() => this.#look(), LOOK_MS);
    this.#look();
  }

  pause() {
    this.seek(this.time);
  }

  /** Stop at this time, all of them. */
  seek(time) {
    this.at = Math.min(Math.max(0, time), this.duration);
    this.isPlaying = false;
    clearInterval(this.timer);
    for (const video of this.videos) {
      video.pause();
      this.#set(video, this.at);
    }
    this.#tell();
  }

  #look() {
    const { time } = this;
    for (const video of this.videos) {
      // Not loaded yet, or shorter than the longest and waiting at its end.
      if (!video.duration || video.seeking) continue;
      if (time >= video.duration - 0.01) {
        video.pause();
        continue;
      }
      if (Math.abs(video.currentTime - time) > DRIFT_S) video.currentTime = time;
      if (video.paused) video.play().catch(() => {});
    }
    this.#tell();
  }

  #set(video, time) {
    // The very end shows nothing in some browsers.
    if (video.duration) video.currentTime = Math.min(time, video.duration - 0.001);
  }

  #tell() {
    this.onTick(this.duration ? this.time / this.duration : 0, this.isPlaying);
  }
}
