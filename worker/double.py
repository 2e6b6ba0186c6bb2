"""A pipeline without a model: the test double behind the catalogue name `double`.

The chaos suite runs whole worker processes with it, so it is chosen by a setting and not by patching. A job's length
is `num_inference_steps` × `step_s`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import PIL.Image

from shared.params import GenerationParams
from shared.states import Phase
from worker.pipeline import Generation, PipelineInfo, Progress, VideoFrames, installed_versions

_INFO = PipelineInfo(
    model="double",
    source="worker.double",
    revision="1",
    engine="double",
    device="cpu",
    dtype="uint8",
    offload="none",
    num_threads=1,
    versions=installed_versions("numpy", "pillow"),
)


@dataclass(frozen=True)
class DoublePipeline:
    """Pans over the image, slowly, with grain from the seed."""

    #: seconds of one denoising step.
    step_s: float = 0.05
    info: PipelineInfo = _INFO

    def generate(self, image: PIL.Image.Image, params: GenerationParams, on_progress: Progress) -> Generation:
        started = time.monotonic()
        on_progress(Phase.DENOISE, 0, params.num_inference_steps)
        for step in range(1, params.num_inference_steps + 1):
            time.sleep(self.step_s)
            on_progress(Phase.DENOISE, step, params.num_inference_steps)
        denoised = time.monotonic()
        chunks = []
        for begin in range(0, params.num_frames, params.decode_chunk_size):
            on_progress(Phase.DECODE, begin, params.num_frames)
            end = min(begin + params.decode_chunk_size, params.num_frames)
            chunks.append(pan(np.asarray(image.convert("RGB")), params, begin, end))
        on_progress(Phase.DECODE, params.num_frames, params.num_frames)
        return Generation(
            image=np.asarray(image.convert("RGB")),
            frames=np.concatenate(chunks),
            decode_chunk_size=params.decode_chunk_size,
            timings_s={
                "encode_image": 0.0,
                "denoise": denoised - started,
                "decode": time.monotonic() - denoised,
            },
        )


def pan(image: VideoFrames, params: GenerationParams, begin: int, end: int) -> VideoFrames:
    """Frames `begin` to `end` of a pan whose width grows with the motion bucket.

    Args:
        image: [h w c].
        params: size, seed and motion.
        begin: first frame.
        end: one past the last frame.

    Returns:
        [t h w c].
    """
    grain = np.random.default_rng(params.seed).integers(-3, 4, size=image.shape, dtype=np.int16)
    reach_px = params.width * (params.motion_bucket_id / 255) * 0.1
    frames = []
    for index in range(begin, end):
        shift_px = round(reach_px * index / max(1, params.num_frames - 1))
        columns = np.minimum(np.arange(params.width) + shift_px, params.width - 1)
        frames.append(np.clip(image[:, columns].astype(np.int16) + grain, 0, 255).astype(np.uint8))
    return np.stack(frames)
