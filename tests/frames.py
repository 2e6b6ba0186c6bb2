"""Frames of videos, decoded and compared."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.video import ffmpeg_executable


def first_frame(path: Path, width: int, height: int) -> NDArray[np.uint8]:
    """The first frame of a video of this size, decoded: [h w 3]."""
    command = [ffmpeg_executable(), "-loglevel", "error", "-i", str(path)]
    command += ["-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, dtype=np.uint8).reshape(height, width, 3)


def psnr_db(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of two pictures of one size, in dB."""
    error = float(((one.astype(np.float64) - other.astype(np.float64)) ** 2).mean())
    return 10 * math.log10(255**2 / max(error, 1e-6))
