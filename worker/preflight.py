"""Checks before a worker starts, without torch: the parent process runs them, so that a bad model costs one sentence.

An exception in Celery's pool child is swallowed or respawns for ever; see docs/design.md, section 4.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub

from shared.catalogue import ModelEntry
from shared.errors import StartupError
from shared.exit_codes import ExitCode
from shared.settings import Settings
from worker.checkpoint import TINY, ResolvedCheckpoint, check_files

_DEVICE = re.compile(r"^(auto|cpu|mps|cuda(?::(?P<index>\d+))?)$")


def check_model(settings: Settings, entry: ModelEntry) -> ResolvedCheckpoint | None:
    """Check device and checkpoint as far as that goes without torch; the child has the last word on the device.

    Returns:
        The checkpoint; None for the test double, which has none.

    Raises:
        StartupError: the model cannot be loaded here; one sentence that says what to do, and an exit code of its kind.
    """
    check_device(settings.device)
    if entry.source == "double":
        return None
    if entry.source == "embedded":
        return check_files(TINY, None, remedy="it is part of Animatic, install that again")
    if entry.source == "directory":
        return _check_directory(entry)
    return _check_pulled(settings, entry)


def _check_directory(entry: ModelEntry) -> ResolvedCheckpoint:
    directory = Path(entry.directory or "").expanduser()
    if not directory.is_dir():
        raise StartupError(
            f"model {entry.name}: there is no directory {directory}; give one with a checkpoint in diffusers' format",
            exit_code=ExitCode.MODEL_UNAVAILABLE,
        )
    return check_files(directory, entry.variant, remedy="copy the checkpoint again")


def _check_pulled(settings: Settings, entry: ModelEntry) -> ResolvedCheckpoint:
    snapshot = find_snapshot(entry)
    if snapshot is None:
        raise StartupError(how_to_pull(settings, entry), exit_code=ExitCode.MODEL_UNAVAILABLE)
    return check_files(snapshot, entry.variant, remedy=f"run `animatic models pull {entry.name}`", commit=snapshot.name)


def find_snapshot(entry: ModelEntry) -> Path | None:
    """Folder of a hub model in the local Hugging Face cache, at the entry's revision; None if it was not pulled."""
    found = huggingface_hub.try_to_load_from_cache(entry.repository or "", "model_index.json", revision=entry.revision)
    return Path(found).parent if isinstance(found, str) else None


def how_to_pull(settings: Settings, entry: ModelEntry) -> str:
    """What to do about a hub model that is not on this machine, as one sentence."""
    command = f"run `animatic models pull {entry.name}`"
    if entry.gated and settings.hf_token is None:
        command = (
            f"accept its terms at https://huggingface.co/{entry.repository}, put a token into ANIMATIC_HF_TOKEN, "
            f"and {command}"
        )
    return f"model {entry.name} is not on this machine: {command}"


def check_device(device: str, environ: Mapping[str, str] | None = None, dev: Path = Path("/dev")) -> None:
    """Check that the device that was asked for can be there.

    Args:
        device: the setting: `auto`, `cuda`, `cuda:N`, `mps` or `cpu`.
        environ: for CUDA_VISIBLE_DEVICES; default: the process's.
        dev: where device files are.

    Raises:
        StartupError: the setting is malformed, or there is no such device.
    """
    match = _DEVICE.match(device)
    if match is None:
        raise StartupError(
            f"ANIMATIC_DEVICE must be auto, cuda, cuda:N, mps or cpu, got {device!r}", exit_code=ExitCode.CONFIG
        )
    if device == "mps" and (sys.platform, platform.machine()) != ("darwin", "arm64"):
        _no_device("mps needs a Mac with Apple silicon; set ANIMATIC_DEVICE to auto")
    if not device.startswith("cuda"):
        return
    visible = count_cuda_devices(os.environ if environ is None else environ, dev)
    if visible == 0:
        _no_device(f"{device} was asked for, but no NVIDIA GPU is visible; set ANIMATIC_DEVICE to auto or cpu")
    index = int(match["index"] or 0)
    if visible is not None and index >= visible:
        _no_device(f"{device} was asked for, but only {visible} NVIDIA GPUs are visible, cuda:0 to cuda:{visible - 1}")


def count_cuda_devices(environ: Mapping[str, str], dev: Path) -> int | None:
    """How many GPUs CUDA may see, from CUDA_VISIBLE_DEVICES, device files and nvidia-smi; None: some, not known."""
    present = _count_nvidia_gpus(dev)
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or present == 0:
        return present
    count = 0
    for name in (part.strip() for part in chosen.split(",")):
        # CUDA stops at the first that is not valid.
        if name in ("", "-1") or (name.isdigit() and present is not None and int(name) >= present):
            break
        count += 1
    return count


def _count_nvidia_gpus(dev: Path) -> int | None:
    files = [path for path in dev.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    if files:
        return len(files)
    if (dev / "dxg").exists():  # WSL has one file for all
        return None
    if dev == Path("/dev") and (smi := shutil.which("nvidia-smi")):
        try:
            listed = subprocess.run([smi, "-L"], capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return sum(1 for line in listed.stdout.splitlines() if line.startswith("GPU "))
    return 0


def _no_device(sentence: str) -> None:
    raise StartupError(sentence, exit_code=ExitCode.DEVICE_UNAVAILABLE)
