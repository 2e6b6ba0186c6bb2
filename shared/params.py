"""Generation parameters, under diffusers' own names.

`GenerationOptions` is what a caller may say (all optional); `GenerationParams` is what a worker runs and a manifest
records (all set). Source of the meanings: diffusers, `StableVideoDiffusionPipeline.__call__`; Blattmann et al. 2023
(arXiv:2311.15127), appendix D, for fps, motion bucket and noise augmentation.
"""

from __future__ import annotations

import secrets
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: JSON numbers are exact only up to here in most clients.
MAX_SEED = 2**53 - 1


class ResizeMode(StrEnum):
    #: scale to cover, cut what hangs over, from the centre.
    CROP = "crop"
    #: scale to fit, fill the rest with black.
    PAD = "pad"
    #: scale each side by itself.
    STRETCH = "stretch"


class FramesFormat(StrEnum):
    #: only the MP4.
    NONE = "none"
    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


Side = Annotated[int, Field(ge=64, le=2048, multiple_of=64)]
Width = Annotated[Side, Field(description="Width of the video, px: a multiple of 64.")]
Height = Annotated[Side, Field(description="Height of the video, px: a multiple of 64.")]
Resize = Annotated[ResizeMode, Field(description="How the image is brought to width × height.")]
NumFrames = Annotated[int, Field(ge=2, le=50, description="Frames to generate.")]
NumInferenceSteps = Annotated[int, Field(ge=1, le=100, description="Denoising steps.")]
Fps = Annotated[int, Field(ge=1, le=60, description="Frame rate that the model is conditioned on.")]
PlaybackFps = Annotated[int, Field(ge=1, le=60, description="Frame rate of the MP4.")]
MotionBucketId = Annotated[
    int, Field(ge=0, le=511, description="Amount of motion; SVD was trained on 0 to 255, 127 is usual.")
]
NoiseAugStrength = Annotated[
    float,
    Field(ge=0, le=1, description="Noise on the conditioning image: more lets the video leave the image."),
]
GuidanceScale = Annotated[float, Field(ge=0, le=20)]
MinGuidanceScale = Annotated[GuidanceScale, Field(description="Guidance scale of the first frame.")]
MaxGuidanceScale = Annotated[
    GuidanceScale, Field(description="Guidance scale of the last frame; 1 switches guidance off.")
]
DecodeChunkSize = Annotated[
    int,
    Field(
        ge=1,
        le=50,
        description="Frames decoded at once: fewer take less memory, and change the output a little.",
    ),
]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED, description="Seed of the noise; drawn when absent, and recorded.")]
Frames = Annotated[FramesFormat, Field(description="Also keep the frames, in this format.")]


class TakesWholeNumbers(BaseModel):
    """Takes 14.0 for 14: to JSON and its schemas both are the same integer."""

    @model_validator(mode="before")
    @classmethod
    def _take_whole_numbers(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: whole_number(value) for name, value in values.items()}


class GenerationParams(BaseModel):
    """Every parameter of one generation, resolved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: Width
    height: Height
    resize_mode: Resize
    num_frames: NumFrames
    num_inference_steps: NumInferenceSteps
    fps: Fps
    playback_fps: PlaybackFps
    motion_bucket_id: MotionBucketId
    noise_aug_strength: NoiseAugStrength
    min_guidance_scale: MinGuidanceScale
    max_guidance_scale: MaxGuidanceScale
    decode_chunk_size: DecodeChunkSize
    seed: Seed
    frames_format: Frames


class GenerationOptions(TakesWholeNumbers):
    """What a caller may choose; what is absent comes from the model's defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: Width | None = None
    height: Height | None = None
    resize_mode: Resize | None = None
    num_frames: NumFrames | None = None
    num_inference_steps: NumInferenceSteps | None = None
    fps: Fps | None = None
    playback_fps: PlaybackFps | None = None
    motion_bucket_id: MotionBucketId | None = None
    noise_aug_strength: NoiseAugStrength | None = None
    min_guidance_scale: MinGuidanceScale | None = None
    max_guidance_scale: MaxGuidanceScale | None = None
    decode_chunk_size: DecodeChunkSize | None = None
    seed: Seed | None = None
    frames_format: Frames | None = None

    @model_validator(mode="after")
    def _check_guidance(self) -> Self:
        low, high = self.min_guidance_scale, self.max_guidance_scale
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_guidance_scale must not exceed max_guidance_scale ({high:g}), got {low:g}")
        return self


def whole_number(value: Any) -> Any:
    """14.0 as 14."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def draw_seed() -> int:
    """A fresh seed, short enough to be typed."""
    return secrets.randbelow(2**32)
