"""Pixels in and out: the input image to RGB at the video's size, frames to MP4 and image files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageOps

from shared.errors import EncodingError, UndecodableImageError
from shared.params import FramesFormat, GenerationParams, ResizeMode
from shared.pictures import DECODING_ERRORS, flatten
from shared.video import write_mp4
from worker.pipeline import VideoFrames

_LANCZOS = PIL.Image.Resampling.LANCZOS

_SUFFIX = {FramesFormat.PNG: ".png", FramesFormat.JPEG: ".jpg", FramesFormat.WEBP: ".webp"}
_SAVE_OPTIONS: dict[FramesFormat, dict[str, Any]] = {
    FramesFormat.PNG: {"compress_level": 6},
    # No chroma subsampling: frames are kept to be worked on.
    FramesFormat.JPEG: {"quality": 95, "subsampling": 0},
    FramesFormat.WEBP: {"quality": 95, "method": 4},
}


def prepare_image(data: bytes, params: GenerationParams) -> PIL.Image.Image:
    """Decode an image, turn it upright, flatten it to RGB and bring it to the video's size.

    Of an animation the first frame is taken. Transparency is flattened on white.

    Args:
        data: the file as it was stored.
        params: width, height (px) and resize_mode.

    Returns:
        RGB, `params.width` × `params.height`.

    Raises:
        UndecodableImageError: Pillow cannot read the file, or not to its end.
    """
    try:
        with PIL.Image.open(io.BytesIO(data)) as opened:
            opened.load()
            image = flatten(PIL.ImageOps.exif_transpose(opened))
    except DECODING_ERRORS as error:
        raise UndecodableImageError(f"the input cannot be read as an image: {error}") from error
    return resize(image, params.width, params.height, params.resize_mode)


def resize(image: PIL.Image.Image, width: int, height: int, mode: ResizeMode) -> PIL.Image.Image:
    """Bring an RGB image to width × height px, with Lanczos filtering."""
    if mode is ResizeMode.CROP:
        return PIL.ImageOps.fit(image, (width, height), _LANCZOS)
    if mode is ResizeMode.PAD:
        return PIL.ImageOps.pad(image, (width, height), _LANCZOS, color=(0, 0, 0))
    return image.resize((width, height), _LANCZOS)


def encode_mp4(frames: VideoFrames, fps: int, path: Path) -> None:
    """Write H.264 in yuv420p that plays everywhere, with its index in front so that it plays while it loads.

    Args:
        frames: [t h w c], RGB, even height and width.
        fps: playback rate, frames per second.
        path: written whole, or not at all.

    Raises:
        EncodingError: ffmpeg failed; the message ends with what it said.
    """
    _, height, width, _ = frames.shape
    write_mp4(path, frames.tobytes(), width=width, height=height, fps=fps)


def encode_frames(frames: VideoFrames, frames_format: FramesFormat, directory: Path) -> list[Path]:
    """Write each frame as `frame_0000.png` and so on.

    Args:
        frames: [t h w c], RGB.
        frames_format: PNG is lossless; JPEG and WebP at quality 95; NONE writes nothing.
        directory: made if it is not there.

    Returns:
        The files, in the order of the frames.

    Raises:
        EncodingError: a file cannot be written.
    """
    if frames_format is FramesFormat.NONE:
        return []
    paths = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for index, frame in enumerate(frames):
            path = directory / f"frame_{index:04d}{_SUFFIX[frames_format]}"
            PIL.Image.fromarray(frame).save(path, **_SAVE_OPTIONS[frames_format])
            paths.append(path)
    except OSError as error:
        raise EncodingError(f"frame {len(paths)} cannot be written: {error}") from error
    return paths
