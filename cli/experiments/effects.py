"""Which parameter moved which measure: means, and how far the images agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from statistics import fmean
from typing import Any

from cli.experiments.cells import Cell

#: of a series' correlation: below it a measure does not follow a parameter, it wanders.
_CLEAR = 0.6
#: more of one of these is not more of anything.
_WITHOUT_ORDER = {"seed", "resize_mode", "frames_format"}


@dataclass(frozen=True)
class Effect:
    """What one swept parameter did to one measure."""

    parameter: str
    measure: str
    #: the measure's mean for each value of the parameter, over all series that have every value.
    means: dict[Any, float]
    #: of the means: largest − smallest, in the measure's unit.
    range: float
    #: Spearman's coefficient of value and measure, −1 to 1, of each series: one image, all other parameters equal.
    correlations: tuple[float, ...]
    #: of each series: the value at which the measure is highest.
    highest_at: tuple[Any, ...]

    @property
    def peak(self) -> Any | None:
        """The value between others at which the measure is highest in every series, if there is one."""
        peaks = set(self.highest_at)
        ends = {min(self.means), max(self.means)} if self.means else set()
        return peaks.pop() if len(peaks) == 1 and not peaks & ends else None

    @property
    def correlation(self) -> float | None:
        """The mean of those; None where the parameter has no order, or too few values."""
        return fmean(self.correlations) if self.correlations else None

    @property
    def direction(self) -> int:
        """1 or -1 where the measure clearly follows the parameter in every series, and to its last value, else 0."""
        if not self.correlations:
            return 0
        # What turns back before the last value can still have a high correlation.
        ends = self.means[min(self.means)], self.means[max(self.means)]
        levels = min(self.means.values()), max(self.means.values())
        if ends == levels and all(one >= _CLEAR for one in self.correlations):
            return 1
        if ends == levels[::-1] and all(one <= -_CLEAR for one in self.correlations):
            return -1
        return 0


def find_effects(cells: Iterable[Cell], grid: Mapping[str, Sequence[Any]]) -> list[Effect]:
    """The effect of each swept parameter on each measure, over the cells that have it."""
    cells = list(cells)
    names = list(dict.fromkeys(name for cell in cells for name in cell.measures))
    swept = [name for name, values in grid.items() if len(values) > 1]
    return [_find_effect(cells, parameter, grid[parameter], name) for parameter in swept for name in names]


def _find_effect(cells: Sequence[Cell], parameter: str, values: Sequence[Any], measure: str) -> Effect:
    #: an image differs from another by more than a parameter does, so each is compared with itself only.
    blocks: dict[tuple[Any, ...], list[tuple[Any, float]]] = {}
    for cell in cells:
        if measure in cell.measures:
            others = tuple(one for name, one in cell.values.items() if name != parameter)
            block = blocks.setdefault((cell.image_index, *others), [])
            block.append((cell.values[parameter], cell.measures[measure]))
    # Means over different images would differ by these, so those with a gap are left out where they can be.
    complete = [block for block in blocks.values() if len(block) == len(values)] or list(blocks.values())
    by_value = {value: [level for block in complete for one, level in block if one == value] for value in values}
    means = {value: fmean(levels) for value, levels in by_value.items() if levels}
    series = [block for block in blocks.values() if len(block) >= 3 and parameter not in _WITHOUT_ORDER]
    return Effect(
        parameter,
        measure,
        means,
        range=max(means.values()) - min(means.values()) if means else 0.0,
        correlations=tuple(
            rank_correlation([value for value, _ in block], [level for _, level in block]) for block in series
        ),
        highest_at=tuple(max(block, key=itemgetter(1))[0] for block in series),
    )


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's coefficient, −1 to 1; 0 where one of both does not vary.

    Pearson's coefficient of the ranks; equal values share the mean of their ranks.
    """
    x, y = _ranks(first), _ranks(second)
    mean = (len(x) + 1) / 2
    covariance = sum((a - mean) * (b - mean) for a, b in zip(x, y, strict=True))
    variances = sum((a - mean) ** 2 for a in x) * sum((b - mean) ** 2 for b in y)
    return float(covariance / variances**0.5) if variances else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) + 1) / 2 for value in values]


def chance_of_agreement(effect: Effect) -> float:
    """How likely all series would agree on a sign by chance alone, 0 to 1 (two-sided sign test)."""
    return min(1.0, 2.0 ** (1 - len(effect.correlations)))
