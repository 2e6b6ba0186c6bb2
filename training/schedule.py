"""How long a stage runs and how its learning rate goes."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Schedule:
    """Warm-up, a constant rate, and a decay to zero over the last part of the steps.

    The total is fixed, or follows from the minutes that are given and the speed that is measured: until the decay
    begins it may move, after that it stays. Source of the shape: Hägele et al. 2024 (arXiv:2405.18392), section 3.
    """

    #: all steps of the stage.
    total: int
    warmup: int
    #: share of the total in which the rate falls.
    decay: float
    #: the step at which this process began, when it began without an optimizer's state: it warms up again.
    cold_at: int = 0

    @property
    def decay_begins(self) -> int:
        """The first step with a smaller rate."""
        return round(self.total * (1 - self.decay))

    def factor(self, step: int) -> float:
        """The learning rate at a step, as a share of the highest."""
        warm = min(1.0, (step - self.cold_at + 1) / max(1, self.warmup))
        if step < self.decay_begins:
            return warm
        left = (self.total - step) / max(1, self.total - self.decay_begins)
        return warm * (1 - math.sqrt(max(0.0, 1 - left)))

    def fit(self, step: int, elapsed_s: float, seconds_per_step: float, budget_s: float, multiple: int) -> None:
        """Move the total to what fits into the budget, unless the decay has begun.

        Args:
            step: done.
            elapsed_s: spent on the stage.
            seconds_per_step: of late.
            budget_s: for the whole stage.
            multiple: the total is a multiple of this, and at least one.
        """
        if step >= self.decay_begins:
            return
        fitting = step + (budget_s - elapsed_s) / seconds_per_step
        self.total = max(multiple, step, int(fitting / multiple) * multiple)
