"""How many GPUs a worker process would see, without torch."""

from __future__ import annotations

import os
import shutil
import subprocess


def count_gpus() -> int:
    """NVIDIA GPUs that CUDA_VISIBLE_DEVICES leaves visible; cuda:0, cuda:1, … count within these."""
    present = _count_present()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or present == 0:
        return present
    count = 0
    for name in (part.strip() for part in chosen.split(",")):
        # CUDA ignores everything from the first invalid entry on. Ids such as GPU-8932f937 are taken at their word.
        if not name or name.startswith("-") or (name.isdigit() and int(name) >= present):
            break
        count += 1
    return count


def _count_present() -> int:
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        done = subprocess.run([program, "-L"], check=False, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    # Slices of a GPU (MIG) are listed too, indented.
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())
