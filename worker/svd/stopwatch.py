"""Seconds by stage, for the manifest."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Stopwatch:
    """Laps since it was made."""

    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.monotonic)

    def lap(self, stage: str) -> None:
        """End a stage; the next begins."""
        now = time.monotonic()
        self.seconds[stage] = now - self._last
        self._last = now
