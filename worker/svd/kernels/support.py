"""Whether this machine can run the kernels."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

import torch

#: Ampere: cuDNN's attention and half precision in Triton need it.
_CAPABILITY_MIN = (8, 0)


def find_obstacle(device: torch.device) -> str | None:
    """Why the kernels cannot run on a CUDA device, as a clause; None: they can.

    Triton compiles a launcher for each kernel with the machine's C compiler, against Python's headers
    (python/triton/runtime/build.py of Triton 3.6).
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed beside torch"
    capability = torch.cuda.get_device_capability(device)
    if capability < _CAPABILITY_MIN:
        has, needed = (".".join(map(str, version)) for version in (capability, _CAPABILITY_MIN))
        return f"{torch.cuda.get_device_name(device)} has compute capability {has}, and they need {needed}"
    return find_missing_tool()


def find_missing_tool() -> str | None:
    """Why Triton cannot compile here, as a clause; None: it can."""
    if not os.environ.get("CC") and not shutil.which("gcc") and not shutil.which("clang"):
        return "there is no C compiler (gcc or clang on the PATH, or CC)"
    headers = Path(sysconfig.get_paths("posix_prefix")["include"])  # as Triton, also where a distribution differs
    if not (headers / "Python.h").exists():
        return f"Python's headers are not in {headers} (python3-dev in Debian and Ubuntu)"
    return None
