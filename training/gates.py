"""What a checkpoint must reach before it is shipped; each gate looks at the worst photo and seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.evaluate import Measures


@dataclass(frozen=True)
class Gate:
    """One condition and how it came out."""

    name: str
    #: the measure of the worst case; NaN, and closed, if there is none.
    worst: float
    holds: bool


def check_gates(found: list[Measures]) -> list[Gate]:
    """Check all conditions over all photos and seeds."""
    usual = [one for one in found if one.noise_aug_strength == min(m.noise_aug_strength for m in found)]
    gates = [
        _at_least("frame 0 to the photo at least 26 dB", 26, (one.first_db for one in usual)),
        _at_least(
            "last frame at least 0.6 similar (SSIM) to the intended one, bucket 127",
            0.6,
            (one.last_ssim for one in usual if one.motion_bucket_id == 127),
        ),
        _at_least(
            "last frame nearer to the intended one than the still photo is, dB, buckets 127 and 255",
            0,
            (one.last_db - one.static_db for one in usual if one.motion_bucket_id in (127, 255)),
        ),
        _at_most(
            "flicker at most 2 times the intended frames', bucket 20",
            2,
            (_ratio(one.flicker, one.intended_flicker) for one in usual if one.motion_bucket_id == 20),
        ),
    ]
    for slow, fast in ((20, 127), (127, 255)):
        gates.append(
            _at_least(
                f"flow at least 1.5 times as long at bucket {fast} as at {slow}",
                1.5,
                _ratios(usual, slow, fast),
            )
        )
    gates.append(
        _at_least(
            "more noise on the photo takes all frames further from it, dB from each strength to the next",
            0,
            _drops(found),
            strict=True,
        )
    )
    return gates


def _ratios(found: list[Measures], slow: int, fast: int) -> Iterable[float]:
    flows = {(one.photo, one.seed, one.motion_bucket_id): one.flow_px for one in found}
    for (photo, seed, bucket), flow in flows.items():
        if bucket == fast and (photo, seed, slow) in flows:
            yield _ratio(flow, flows[photo, seed, slow])


def _ratio(value: float, other: float) -> float:
    """How many times as large; NaN, with which no gate holds, where nothing moves."""
    return value / other if other else math.nan


def _drops(found: list[Measures]) -> Iterable[float]:
    at_usual_bucket = [one for one in found if one.motion_bucket_id == 127]
    for photo, seed in sorted({(one.photo, one.seed) for one in at_usual_bucket}):
        own = [one for one in at_usual_bucket if (one.photo, one.seed) == (photo, seed)]
        own.sort(key=lambda one: one.noise_aug_strength)
        yield from (less.all_to_photo_db - more.all_to_photo_db for less, more in pairwise(own))


def _at_least(name: str, bound: float, values: Iterable[float], *, strict: bool = False) -> Gate:
    worst = _worst(min, values)
    return Gate(name, worst, worst > bound if strict else worst >= bound)


def _at_most(name: str, bound: float, values: Iterable[float]) -> Gate:
    worst = _worst(max, values)
    return Gate(name, worst, worst <= bound)


def _worst(choose: Callable[[list[float]], float], values: Iterable[float]) -> float:
    """The least or greatest value; NaN when one of them is, or when there is none."""
    found = list(values)
    return choose(found) if found and not any(map(math.isnan, found)) else math.nan
