"""The grid: which values of which parameters, and the cells that follow from it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar
from uuid import UUID, uuid5

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    model_validator,
)

from shared.params import (
    DecodeChunkSize,
    Fps,
    Frames,
    Height,
    MaxGuidanceScale,
    MinGuidanceScale,
    MotionBucketId,
    NoiseAugStrength,
    NumFrames,
    NumInferenceSteps,
    PlaybackFps,
    Resize,
    Seed,
    Width,
    whole_number,
)

Value = TypeVar("Value")

#: what JSON and a database row hold: parameter → values, in the order of the axes.
Axes = Mapping[str, Sequence[Any]]


def _check_distinct(values: list[Any]) -> list[Any]:
    seen = set()
    for value in values:
        if value in seen:
            raise ValueError(f"values of an axis must differ, got {value} twice")
        seen.add(value)
    return values


Axis = Annotated[
    list[Value],
    Field(min_length=1, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_check_distinct),
]


class GenerationGrid(BaseModel):
    """Values to try, by parameter. The cells are the cross product; the order of the parameters is that of the axes."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"minProperties": 1})

    width: Axis[Width] = Field(default_factory=list)
    height: Axis[Height] = Field(default_factory=list)
    resize_mode: Axis[Resize] = Field(default_factory=list)
    num_frames: Axis[NumFrames] = Field(default_factory=list)
    num_inference_steps: Axis[NumInferenceSteps] = Field(default_factory=list)
    fps: Axis[Fps] = Field(default_factory=list)
    playback_fps: Axis[PlaybackFps] = Field(default_factory=list)
    motion_bucket_id: Axis[MotionBucketId] = Field(default_factory=list)
    noise_aug_strength: Axis[NoiseAugStrength] = Field(default_factory=list)
    min_guidance_scale: Axis[MinGuidanceScale] = Field(default_factory=list)
    max_guidance_scale: Axis[MaxGuidanceScale] = Field(default_factory=list)
    decode_chunk_size: Axis[DecodeChunkSize] = Field(default_factory=list)
    seed: Axis[Seed] = Field(default_factory=list)
    frames_format: Axis[Frames] = Field(default_factory=list)

    _order: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="wrap")
    @classmethod
    def _keep_order(cls, values: Any, handler: ModelWrapValidatorHandler[GenerationGrid]) -> GenerationGrid:
        if isinstance(values, dict):
            values = {
                name: [whole_number(value) for value in axis] if isinstance(axis, list) else axis
                for name, axis in values.items()
            }
        grid = handler(values)
        if isinstance(values, dict):
            grid._order = tuple(values)
        if not grid._order:
            raise ValueError("grid must name at least one parameter with its values")
        return grid

    def axes(self) -> dict[str, list[Any]]:
        """As JSON values, in the order in which they were given."""
        values = self.model_dump(mode="json", exclude_unset=True)
        return {name: values[name] for name in self._order}


def count_points(axes: Axes) -> int:
    return math.prod(len(values) for values in axes.values())


def grid_points(axes: Axes) -> list[dict[str, Any]]:
    """Every combination, the last axis fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def cell_id(experiment_id: UUID, index: int) -> UUID:
    """The same cell has the same id for whoever asks, whichever job stands for it.

    Source: RFC 9562, UUIDv5, with the experiment as the namespace.
    """
    return uuid5(experiment_id, str(index))
