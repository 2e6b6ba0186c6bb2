"""What the service costs on top of the model: a job through Animatic against diffusers called as in a notebook.

`python -m bench.overhead [--rounds N]` starts the embedded stack, and in each round makes the same video twice, in
turn: once with `StableVideoDiffusionPipeline` in this process, once as a job (upload, queue, claim, generate, encode,
store, download). Both run on the same cores, one after the other.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from diffusers import StableVideoDiffusionPipeline

from cli.client import Client, path_to
from cli.download import download_file
from cli.follow import follow
from cli.stack import Stack, StackOptions
from cli.submit import create_job
from shared.catalogue import find_entry
from worker.checkpoint import TINY
from worker.media import encode_mp4, resize

PHOTO = Path(__file__).parent.parent / "docs" / "samples" / "rocket.jpg"
RESULT = Path(__file__).parent / "results" / "overhead.json"


def time_call(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def notebook(pipeline: Any, folder: Path) -> None:
    """The same work without a service: read, resize, generate, encode."""
    params = find_entry("tiny").defaults
    image = resize(PIL.Image.open(PHOTO).convert("RGB"), params.width, params.height, params.resize_mode)
    frames = pipeline(
        image,
        height=params.height,
        width=params.width,
        num_frames=params.num_frames,
        num_inference_steps=params.num_inference_steps,
        fps=params.fps,
        motion_bucket_id=params.motion_bucket_id,
        noise_aug_strength=params.noise_aug_strength,
        min_guidance_scale=params.min_guidance_scale,
        max_guidance_scale=params.max_guidance_scale,
        decode_chunk_size=params.decode_chunk_size,
        generator=torch.Generator().manual_seed(42),
        output_type="np",
    ).frames[0]
    encode_mp4((frames * 255).round().astype("uint8"), params.playback_fps, folder / "notebook.mp4")


def service(client: Client, folder: Path) -> None:
    job = create_job(client, str(PHOTO), {"seed": 42})
    *_, ended = follow(client, job["id"])
    download_file(client, ended["result"]["video"], folder / "service.mp4")


def accept(client: Client) -> float:
    """Seconds of one POST: upload, decode, store, commit. No worker here loads `svd`, so none is busy meanwhile."""
    start = time.perf_counter()
    job = create_job(client, str(PHOTO), {"model": "svd"})
    seconds = time.perf_counter() - start
    client.post(path_to("jobs", job["id"], "cancel"))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="animatic-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        stack = Stack(
            StackOptions("127.0.0.1", 0, folder / "data", "tiny"),
            say=lambda text: print(text, file=sys.stderr),
            is_stopping=lambda: False,
        )
        try:
            stack.start()
            pipeline = StableVideoDiffusionPipeline.from_pretrained(TINY)
            pipeline.set_progress_bar_config(disable=True)
            times: dict[str, list[float]] = {"notebook": [], "service": []}
            with Client(stack.place) as client:
                notebook(pipeline, folder)
                service(client, folder)
                for turn in range(rounds):
                    calls = {"notebook": lambda: notebook(pipeline, folder), "service": lambda: service(client, folder)}
                    for which in list(calls) if turn % 2 else reversed(list(calls)):
                        times[which].append(time_call(calls[which]))
                accepts = [accept(client) for _ in range(50)]
        finally:
            stack.stop()
            stack.erase()
    result = {
        "command": f"python -m bench.overhead --rounds {rounds}",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "notebook_s": [round(value, 3) for value in times["notebook"]],
        "service_s": [round(value, 3) for value in times["service"]],
        "median_ratio": round(statistics.median(times["service"]) / statistics.median(times["notebook"]), 3),
        "median_overhead_s": round(statistics.median(times["service"]) - statistics.median(times["notebook"]), 3),
        "accept_median_ms": round(1000 * statistics.median(accepts), 1),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
