"""Video files, by ffmpeg: write one, read its frames, decode it to the end and say what it holds."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.errors import AnimaticError, EncodingError, StartupError
from shared.exit_codes import ExitCode

#: constant rate factor of x264: 18 is taken for visually lossless, 23 is its default.
H264_CRF = 18

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


def write_mp4(path: Path, frames: bytes, *, width: int, height: int, fps: float, crf: int = H264_CRF) -> None:
    """Write H.264 in yuv420p that plays everywhere, with its index in front so that it plays while it loads.

    Args:
        path: written whole, or not at all.
        frames: [t h w c] in RGB, 8 bits each; width and height are even.
        fps: playback rate, frames per second.
        crf: constant rate factor of x264, 0 to 51; more is smaller and worse.

    Raises:
        EncodingError: ffmpeg failed; the message ends with what it said.
    """
    command = [
        *(ffmpeg_executable(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{width}x{height}", "-framerate", str(fps)),
        *("-i", "pipe:0", "-an"),
        # ffmpeg converts RGB with BT.601 and tags nothing, players take BT.709: the colours would shift.
        *("-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"),
        *("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"),
        *("-c:v", "libx264", "-preset", "medium", "-crf", str(crf), "-movflags", "+faststart"),
        *("-f", "mp4", str(path)),
    ]
    try:
        # `run` kills the child when anything is raised meanwhile, and waits for it.
        done = subprocess.run(command, input=frames, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if done.returncode != 0:
        path.unlink(missing_ok=True)
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise EncodingError(f"ffmpeg ended with {done.returncode}: {said or 'no message'}")


def read_frames(path: Path, width: int, height: int) -> Iterator[bytes]:
    """The frames of a video's first stream, scaled to width × height px.

    Returns:
        Of each frame [h w c] in RGB, 8 bits each.

    Raises:
        VideoUnreadableError: the file is missing, truncated or not a video.
        StartupError: there is no ffmpeg.
    """
    command = [
        *(ffmpeg_executable(), "-hide_banner", "-loglevel", "error", "-nostdin", "-xerror"),
        *("-i", str(path), "-map", "0:v:0", "-fps_mode", "passthrough"),
        *("-vf", f"scale={width}:{height}:flags=area", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"),
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    size = width * height * 3
    if done.returncode != 0 or not done.stdout or len(done.stdout) % size:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise VideoUnreadableError(f"{path} cannot be decoded: {said[0]}")
    for start in range(0, len(done.stdout), size):
        yield done.stdout[start : start + size]


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
