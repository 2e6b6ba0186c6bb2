"""`python -m bench.svd_start`: how long until a worker is ready, and whether each start gives the same frames.

Three workers, one after the other, on a checkpoint of random weights: the first compiles its kernels, the second finds
them, the third compiles again in an empty folder. Each denoises and decodes the same job; exit code 1 if
one of them gives other frames.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.svd.checkpoint import write_checkpoint
from bench.svd_speed import make_params, make_photo
from shared.catalogue import find_entry
from shared.settings import Settings
from shared.states import Phase
from worker.load import load


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.svd_start", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="a directory; made if it is not there")
    parser.add_argument("--engine", default="exact")
    parser.add_argument("--shape", default="25x576x1024", help="frames × height × width (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--toy", action="store_true", help="the toy architecture, also on a CPU")
    parser.add_argument("--compiled", type=Path, help="start one worker with this folder, and print what it did")
    parser.add_argument("--result", type=Path, help="write the figures into this JSON file")
    return parser.parse_args()


def main() -> int:
    options = parse_arguments()
    if options.compiled:
        print(json.dumps(start_worker(options)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        options.checkpoint = options.checkpoint or Path(folder) / "checkpoint"
        write_checkpoint(options.checkpoint, toy=options.toy)
        starts = {
            "nothing compiled": start_process(options, Path(folder) / "first"),
            "compiled before": start_process(options, Path(folder) / "first"),
            "nothing compiled, again": start_process(options, Path(folder) / "second"),
        }
    if options.result:
        figures = {"shape": options.shape, "steps": options.steps, "engine": options.engine, "starts": starts}
        options.result.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return int(len({each["frames_sha256"] for each in starts.values()}) > 1)


def start_process(options: argparse.Namespace, compiled: Path) -> dict[str, Any]:
    """A worker's process from its start to its first video; seconds from the process's first instruction."""
    begin = time.monotonic()
    arguments = ["--checkpoint", str(options.checkpoint), "--engine", options.engine, "--shape", options.shape]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "bench.svd_start",
            *arguments,
            "--steps",
            str(options.steps),
            "--compiled",
            str(compiled),
        ],
        env={name: value for name, value in os.environ.items() if name != "TRITON_CACHE_DIR"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    figures["ready_s"] = round(figures.pop("ready_at") - begin, 2)
    print(f"ready after {figures['ready_s']:6.1f} s, frames {figures['frames_sha256'][:16]}", flush=True)
    return figures


def start_worker(options: argparse.Namespace) -> dict[str, Any]:
    """Load as a worker does, and make one video."""
    settings = Settings(model_dir=str(options.compiled), engine=options.engine)
    pipeline = load(settings, find_entry(f"svd-random={options.checkpoint}"))
    ready_at = time.monotonic()
    num_frames, height, width = map(int, options.shape.split("x"))
    frames = pipeline.generate(
        make_photo(width, height), make_params(num_frames, height, width, options.steps, 3.0), _ignore
    ).frames
    return {"ready_at": ready_at, "frames_sha256": hashlib.sha256(frames.tobytes()).hexdigest()}


def _ignore(phase: Phase, step: int, total: int) -> None:
    """Nobody looks at the progress."""


if __name__ == "__main__":
    raise SystemExit(main())
