"""The grid of a sweep: options that take several values, and the article's two experiments as presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

Values = tuple[Any, ...]


class ValueList(click.ParamType[Values]):
    """`120,180,240`: each part as the option for one value takes it."""

    name = "values"

    def __init__(self, of: click.ParamType[Any]) -> None:
        self._of = of

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Values:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(parts):
            self.fail(f"values must be separated by single commas, such as 120,180; got {value!r}", param, ctx)
        values = tuple(self._of.convert(part, param, ctx) for part in parts)
        for index, one in enumerate(values):
            if one in values[:index]:
                self.fail(f"each value must be given once, got {one} twice", param, ctx)
        return values


@dataclass(frozen=True)
class Preset:
    """An experiment that is known by name."""

    name: str
    values: Mapping[str, Values]


# The model's own defaults are the article's for all else, and fit a smaller model as well.
_ARTICLE = {"seed": (42,), "decode_chunk_size": (8,), "playback_fps": (7,)}

#: the two experiments of "Creating videos from static images with Stable Video Diffusion", Weights & Biases 2024.
PRESETS = {
    "motion": Preset(
        "exp_1", {"motion_bucket_id": (120, 180, 240, 300, 360), "noise_aug_strength": (0.1,), **_ARTICLE}
    ),
    "noise": Preset("exp_2", {"noise_aug_strength": (0.1, 0.2, 0.3, 0.4), "motion_bucket_id": (120,), **_ARTICLE}),
}


def split_grid(options: Mapping[str, Values], preset: Preset | None) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """What is swept, in the order of the options, and what is fixed.

    Args:
        options: as given; they win over the preset's.

    Raises:
        click.UsageError: nothing is swept.
    """
    values = {**(preset.values if preset else {}), **options}
    grid = {name: list(chosen) for name, chosen in values.items() if len(chosen) > 1}
    if not grid:
        raise click.UsageError(
            "nothing to sweep: give a parameter several values, such as --motion-bucket-id 120,180, or a --preset"
        )
    return grid, {name: chosen[0] for name, chosen in values.items() if len(chosen) == 1}
