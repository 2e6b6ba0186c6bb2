"""`python -m bench.svd_memory`: the GPU memory that a job takes, and what fits smaller cards.

For each way to run, in a process of its own: the peak while denoising and while decoding chunks of frames; then the
same job under caps on the allocator as smaller cards would set them, where it decodes smaller chunks or says why not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.svd.checkpoint import write_checkpoint
from bench.svd_speed import make_params, make_photo
from shared.catalogue import find_entry
from shared.errors import AnimaticError
from shared.settings import Settings
from shared.states import Phase
from worker.load import load

#: engine tier and offload.
WAYS = ("exact none", "stock none", "stock model", "stock sequential")
#: of a card that the driver and CUDA's libraries take, GiB.
_TAKEN_GIB = 1.0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.svd_memory", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="a directory; made if it is not there")
    parser.add_argument("--shape", default="25x576x1024", help="frames × height × width (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="change nothing about the peak")
    parser.add_argument("--chunks", default="25,8,4,2,1", help="frames decoded at once")
    parser.add_argument("--cards", default="24,16,12,8", help="GB of memory, from large to small")
    parser.add_argument("--ways", default=",".join(WAYS), help="engine and offload (default: %(default)s)")
    parser.add_argument("--toy", action="store_true", help="the toy architecture, also on a CPU")
    parser.add_argument("--way", help="measure this one here, and print it")
    parser.add_argument("--result", type=Path, help="write the figures into this JSON file")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    if options.way:
        measure(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = options.checkpoint or Path(folder) / "checkpoint"
        write_checkpoint(checkpoint, toy=options.toy)
        rows = [row for way in options.ways.split(",") for row in run_process(options, checkpoint, way)]
    if options.result:
        options.result.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def run_process(options: argparse.Namespace, checkpoint: Path, way: str) -> list[dict[str, Any]]:
    """The rows of one way to run."""
    names = ("shape", "steps", "chunks", "cards")
    arguments = [part for name in names for part in (f"--{name}", str(getattr(options, name)))]
    done = subprocess.run(
        [sys.executable, "-m", "bench.svd_memory", *arguments, "--checkpoint", str(checkpoint), "--way", way],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    print(done.stdout, end="", flush=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def measure(options: argparse.Namespace) -> None:
    """Print a row for each chunk size and each card."""
    engine, offload = options.way.split()
    cuda = torch.cuda.is_available()
    settings = Settings(engine=engine, offload=offload if cuda else "none")
    pipeline = load(settings, find_entry(f"svd-random={options.checkpoint}"))
    num_frames, height, width = map(int, options.shape.split("x"))
    params = make_params(num_frames, height, width, options.steps, 3.0)
    photo = make_photo(width, height)
    peaks: dict[str, float] = {}

    def on_progress(phase: Phase, step: int, total: int) -> None:
        if cuda and phase.value not in peaks:
            torch.cuda.synchronize()
            peaks[phase.value] = 0.0
            torch.cuda.reset_peak_memory_stats()
        if cuda:
            peaks[phase.value] = round(torch.cuda.max_memory_reserved() / 2**30, 2)

    def run(chunk_size: int) -> dict[str, Any]:
        peaks.clear()
        if cuda:
            torch.cuda.empty_cache()
        try:
            generation = pipeline.generate(
                photo, params.model_copy(update={"decode_chunk_size": chunk_size}), on_progress
            )
        except AnimaticError as error:
            return {"error": str(error)}
        seconds = {stage: round(value, 2) for stage, value in generation.timings_s.items()}
        return {"chunk_size": generation.decode_chunk_size, "peak_gib": dict(peaks), "seconds": seconds}

    row = {"engine": engine, "offload": offload}
    for chunk_size in map(int, options.chunks.split(",")):
        print(json.dumps({**row, "card_gb": None, **run(chunk_size)}), flush=True)
    for card in map(int, options.cards.split(",")) if cuda else ():
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((card - _TAKEN_GIB) * 2**30 / torch.cuda.mem_get_info()[1])
        print(json.dumps({**row, "card_gb": card, **run(num_frames)}), flush=True)


if __name__ == "__main__":
    main()
