"""The seam between the generate use case and the model: no torch on this side.

Two implementations: `worker.svd.engine.SvdPipeline`, and `worker.double.DoublePipeline` for tests of everything else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Protocol

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from shared.params import GenerationParams
from shared.states import Phase

#: video frames, [t h w c], RGB, 0 to 255.
VideoFrames = NDArray[np.uint8]


class Progress(Protocol):
    """Hears about every denoising step and every decoded chunk, and may stop the work by raising."""

    def __call__(self, phase: Phase, step: int, total: int) -> None:
        """Note that `step` of `total` are done.

        Args:
            phase: DENOISE counts steps, DECODE counts frames; both begin with 0.
            step: how many are done, 0 to `total`.
            total: how many there are.

        Raises:
            Exception: the work shall stop (cancel, drain, a lost lease). The pipeline lets it through at once, frees
                the job's memory, and is ready for the next job.
        """


@dataclass(frozen=True)
class Generation:
    """One run of the pipeline: what it was given, and what it gave."""

    #: [h w c], RGB, 0 to 255: the prepared input.
    image: NDArray[np.uint8]
    frames: VideoFrames
    #: frames decoded at once, after any back-off; it changes the output, since GroupNorm spans time.
    decode_chunk_size: int
    #: seconds by stage: `encode_image`, `denoise`, `decode`, `drift`.
    timings_s: dict[str, float] = field(default_factory=dict)
    #: of the frames from the image, 0 to 2 (see docs/measures.md); None where there is no image encoder, or it failed.
    drift: float | None = None


@dataclass(frozen=True)
class PipelineInfo:
    """What is needed, beside the parameters and the image, to make the same video again."""

    model: str
    #: hub repository or directory that the weights came from.
    source: str
    #: commit of the repository, or `sha256:…` over the checkpoint's files.
    revision: str
    #: engine tier; `stock` is diffusers' pipeline, unmodified.
    engine: str
    #: name for people, such as `NVIDIA H200` or `cpu`.
    device: str
    dtype: str
    offload: str
    num_threads: int
    versions: dict[str, str]


class VideoPipeline(Protocol):
    """A loaded model that turns one image into one video."""

    @property
    def info(self) -> PipelineInfo:
        """What is loaded, and on what."""

    def generate(self, image: PIL.Image.Image, params: GenerationParams, on_progress: Progress) -> Generation:
        """Make the video.

        Args:
            image: RGB, already `params.width` × `params.height`.
            params: resolved; the same on the same device and versions give the same frames, bit for bit.
            on_progress: called at each step; what it raises comes through.

        Raises:
            InvalidOutputError: the frames hold NaN, are constant, or are black.
            OutOfMemoryError: the device has too little memory, even decoding frame by frame.
            DeviceLostError: the pipeline cannot be used any more.
        """


def installed_versions(*packages: str) -> dict[str, str]:
    """Versions of Python, Animatic and the packages that are installed, without importing them."""
    versions = {"python": python_version()}
    for package in ("animatic", *packages):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
