"""Looking into a video file: decode it to the end and say what it holds."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from shared.errors import AnimaticError, StartupError
from shared.exit_codes import ExitCode

_STREAM = re.compile(
    r"Video: (?P<codec>\w+).*?, (?P<pix_fmt>\w+)[(,].*?(?P<width>\d{2,})x(?P<height>\d{2,}).*?, (?P<fps>[\d.]+) fps"
)


class VideoUnreadableError(AnimaticError):
    """The file is not a video that can be decoded to its end."""

    code = "video_unreadable"


@dataclass(frozen=True)
class VideoProbe:
    """What a video file holds; `num_frames` were really decoded."""

    num_frames: int
    width: int
    height: int
    #: frames per second.
    fps: float
    codec: str
    pix_fmt: str


def ffmpeg_executable() -> str:
    """Path of imageio-ffmpeg's binary.

    Raises:
        StartupError: it is not installed.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise StartupError(
            "imageio-ffmpeg is missing: install Animatic with its extra `worker` or `standalone`",
            exit_code=ExitCode.CONFIG,
        ) from error
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise StartupError(
            f"no ffmpeg for this platform: set IMAGEIO_FFMPEG_EXE to one ({error})", exit_code=ExitCode.CONFIG
        ) from error


def probe_mp4(path: Path) -> VideoProbe:
    """Decode every frame of a video's first stream.

    Raises:
        VideoUnreadableError: the file is missing, truncated or not a video.
        StartupError: there is no ffmpeg.
    """
    # framecrc prints one line for each decoded frame, so the count is what a player would show.
    command = [
        *(ffmpeg_executable(), "-hide_banner", "-nostdin", "-nostats", "-xerror", "-err_detect", "explode"),
        *("-i", str(path), "-map", "0:v:0", "-fps_mode", "passthrough", "-f", "framecrc", "pipe:1"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    stream = _STREAM.search(done.stderr)
    if done.returncode != 0 or stream is None:
        said = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise VideoUnreadableError(f"{path} cannot be decoded: {said[0]}")
    return VideoProbe(
        num_frames=sum(1 for line in done.stdout.splitlines() if line and not line.startswith("#")),
        width=int(stream["width"]),
        height=int(stream["height"]),
        fps=float(stream["fps"]),
        codec=stream["codec"],
        pix_fmt=stream["pix_fmt"],
    )
