"""`python -m bench.svd_speed`: SVD's whole call, ours beside diffusers', in one run on one device.

Random weights at the full architecture, the same for each variant; what is timed is the call from photo to frames. The
variants take turns, forward and backward, so that a device that warms up slows all of them alike. A call of this
program measures one shape and some variants and merges the result into a file, since time on a GPU comes in pieces.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from bench.svd.architecture import FULL, TOY
from bench.svd.profiling import profile_call
from bench.svd.variants import COMPILED, DESCRIPTIONS, Call, Setup, describe, make_variant
from shared.params import FramesFormat, GenerationParams, ResizeMode
from worker.pipeline import VideoFrames
from worker.svd.rewrites import REWRITES

#: of a square matrix product that is far larger than any cache.
_PEAK_SIZE = 16_384

#: of diffusers' own modules, 25 steps with guidance, counted by torch.utils.flop_counter: a rewrite that saves work
#: shows as a higher share of the peak.
WORK_TFLOP = {"25x576x1024": 4174.0, "25x1024x576": 4174.0, "14x576x1024": 2340.0}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.svd_speed", description=__doc__)
    parser.add_argument("--shape", default="25x576x1024", help="frames × height × width (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=3.0, help="of the last frame; 1 for none")
    parser.add_argument("--variants", default="b0,exact", help=f"of {', '.join(DESCRIPTIONS)} (default: %(default)s)")
    parser.add_argument("--without", default="", help=f"rewrites to leave out, of {', '.join(REWRITES)}")
    parser.add_argument("--warm-ups", type=int, default=2, help="of each variant, 1 or more (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="that are timed, 1 or more (default: %(default)s)")
    parser.add_argument("--toy", action="store_true", help="the toy architecture, also on a CPU")
    parser.add_argument("--tiny", action="store_true", help="the checkpoint tiny, also on a CPU")
    parser.add_argument("--profile", action="store_true", help="print what still costs, in order")
    parser.add_argument("--result", type=Path, help="merge the figures into this JSON file")
    options = parser.parse_args()
    if options.warm_ups < 1 or options.repeats < 1:
        parser.error(f"--warm-ups and --repeats must be 1 or more, got {options.warm_ups} and {options.repeats}")
    options.variants = options.variants.split(",")
    options.without = [name for name in options.without.split(",") if name]
    for given, known in ((options.variants, DESCRIPTIONS), (options.without, REWRITES)):
        if unknown := {name.partition(":")[0] for name in given} - set(known):
            parser.error(f"no such name: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return options


def main() -> None:
    options = parse_arguments()
    cuda = torch.cuda.is_available()
    if not cuda and not (options.toy or options.tiny):
        raise SystemExit("there is no CUDA device: add --toy to see whether the program works")
    num_frames, height, width = map(int, options.shape.split("x"))
    params = make_params(num_frames, height, width, options.steps, options.guidance)
    setup = Setup(
        architecture=None if options.tiny else TOY if options.toy else FULL,
        device=torch.device("cuda", 0) if cuda else torch.device("cpu"),
        dtype=torch.float16 if cuda else torch.float32,
        without=options.without,
    )
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "shape": options.shape,
        "steps": options.steps,
        "guidance": options.guidance,
        "architecture": "tiny" if options.tiny else "toy" if options.toy else "svd-xt",
        "without": sorted(setup.without),
        "matrix_peak_before_tflops": measure_matrix_peak(setup),
        "variants": {},
    }
    photo = make_photo(width, height)
    names = options.variants
    calls: dict[str, Call] = {}
    videos: dict[str, VideoFrames] = {}
    for name in list(names):
        try:
            calls[name], figures["variants"][name] = warm_up(name, setup, photo, params, options.warm_ups)
        except RuntimeError as error:
            if name not in COMPILED:
                raise
            # That fails on some versions; the others' figures stand without it.
            print(f"{name} failed: {error}", flush=True)
            names.remove(name)
            continue
        print(f"{name}: {figures['variants'][name]}", flush=True)
        if options.profile:
            profile_call(lambda name=name: calls[name](photo, params))
    for turn in range(options.repeats):
        for name in names if turn % 2 == 0 else reversed(names):
            videos[name] = measure_once(calls[name], photo, params, figures["variants"][name])
    figures["matrix_peak_after_tflops"] = measure_matrix_peak(setup)
    peak = (figures["matrix_peak_before_tflops"] + figures["matrix_peak_after_tflops"]) / 2
    for name in names:
        summarize(figures["variants"][name])
        whole = options.steps == 25 and options.guidance > 1 and not name.startswith("fast")
        if options.shape in WORK_TFLOP and setup.architecture is FULL and whole:
            share = WORK_TFLOP[options.shape] / figures["variants"][name]["median_s"] / peak
            figures["variants"][name]["share_of_peak"] = round(share, 3)
        if "exact" in videos:
            figures["variants"][name]["psnr_to_exact_db"] = measure_psnr(videos[name], videos["exact"])
    print_table(figures)
    if options.result:
        merge(options.result, figures)


def make_params(num_frames: int, height: int, width: int, steps: int, guidance: float) -> GenerationParams:
    return GenerationParams(
        width=width,
        height=height,
        resize_mode=ResizeMode.CROP,
        num_frames=num_frames,
        num_inference_steps=steps,
        fps=7,
        playback_fps=7,
        motion_bucket_id=127,
        noise_aug_strength=0.02,
        min_guidance_scale=1.0,
        max_guidance_scale=guidance,
        decode_chunk_size=num_frames,
        seed=42,
        frames_format=FramesFormat.NONE,
    )


def make_photo(width: int, height: int) -> PIL.Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (height // 32, width // 32, 3), dtype=np.uint8)
    return PIL.Image.fromarray(levels).resize((width, height), PIL.Image.Resampling.BICUBIC)


def measure_matrix_peak(setup: Setup) -> float:
    """TFLOP/s of a large product of random matrices: what the device can do today."""
    size = _PEAK_SIZE if setup.device.type == "cuda" else 512
    a, b = (torch.randn(size, size, device=setup.device, dtype=setup.dtype) for _ in range(2))
    times = []
    for _ in range(10):
        synchronize(setup.device)
        begin = time.monotonic()
        a @ b
        synchronize(setup.device)
        times.append(time.monotonic() - begin)
    return round(2 * size**3 / statistics.median(times[3:]) / 1e12, 1)


def warm_up(
    name: str, setup: Setup, photo: PIL.Image.Image, params: GenerationParams, times: int
) -> tuple[Call, dict[str, Any]]:
    begin = time.monotonic()
    call = make_variant(name, setup)
    made = time.monotonic()
    for turn in range(times):
        frames, _ = call(photo, params)
        if turn == 0:
            first = time.monotonic() - made
    if frames.min() == frames.max():
        raise SystemExit(f"{name} gave a constant video")
    return call, {"description": describe(name), "make_s": round(made - begin, 2), "first_call_s": round(first, 2)}


def measure_once(call: Call, photo: PIL.Image.Image, params: GenerationParams, figures: dict[str, Any]) -> VideoFrames:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    begin = time.monotonic()
    frames, stages = call(photo, params)
    figures.setdefault("all_s", []).append(round(time.monotonic() - begin, 4))
    for stage, seconds in stages.items():
        figures.setdefault("stages_s", {}).setdefault(stage, []).append(round(seconds, 4))
    if torch.cuda.is_available():
        # Beyond what all variants' weights hold.
        figures["working_gib"] = round((torch.cuda.max_memory_allocated() - held) / 2**30, 2)
    return frames


def measure_psnr(frames: VideoFrames, reference: VideoFrames) -> float | None:
    """Peak signal-to-noise ratio over a whole video, dB; None if nothing differs."""
    error = float(np.mean((frames.astype(np.float32) - reference.astype(np.float32)) ** 2))
    return round(10 * math.log10(255**2 / error), 1) if error else None


def summarize(figures: dict[str, Any]) -> None:
    times = sorted(figures["all_s"])
    figures["median_s"] = statistics.median(times)
    figures["quartiles_s"] = [times[len(times) // 4], times[-1 - len(times) // 4]]
    figures["stages_s"] = {stage: statistics.median(values) for stage, values in figures["stages_s"].items()}


def print_table(figures: dict[str, Any]) -> None:
    variants = figures["variants"]
    base = next(iter(variants.values()))["median_s"]
    print(f"{figures['shape']}, {figures['steps']} steps, {figures['device']}, torch {figures['torch']}; matrix peak")
    print(f"{figures['matrix_peak_before_tflops']} TFLOP/s before, {figures['matrix_peak_after_tflops']} after")
    for name, each in variants.items():
        stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in each["stages_s"].items())
        print(
            f"{name:22} {each['median_s']:7.3f} s ({each['quartiles_s'][0]:.3f}–{each['quartiles_s'][1]:.3f})  "
            f"{base / each['median_s']:5.2f}×  {each.get('working_gib', '–')} GiB  [{stages}]  "
            f"first call {each['first_call_s']} s  share of peak {each.get('share_of_peak', '–')}  "
            f"PSNR to exact {each.get('psnr_to_exact_db', '–')} dB"
        )


def merge(path: Path, figures: dict[str, Any]) -> None:
    """Add a run to those in the file; a run of the same things on the same device takes the old one's place."""

    def key(run: dict[str, Any]) -> tuple[Any, ...]:
        same = [run[name] for name in ("device", "architecture", "shape", "steps", "guidance")]
        return (*same, run.get("without", []), sorted(run["variants"]))

    runs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    runs = [run for run in runs if key(run) != key(figures)] + [figures]
    path.write_text(json.dumps(runs, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
