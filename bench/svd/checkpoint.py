"""A checkpoint on disk with random weights, for what can only be measured from a worker's start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from bench.svd.architecture import FULL, TOY, make_pipeline


def write_checkpoint(directory: Path, *, toy: bool) -> None:
    """Write one in diffusers' format, in float16, unless it is there; in a process that then leaves the device."""
    if not (directory / "model_index.json").exists():
        subprocess.run([sys.executable, "-m", __name__, str(directory), "toy" if toy else "full"], check=True)


if __name__ == "__main__":
    pipe = make_pipeline(
        TOY if sys.argv[2] == "toy" else FULL,
        device=torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"),
        dtype=torch.float16,
    )
    pipe.save_pretrained(sys.argv[1], max_shard_size="20GB")
