"""A circuit breaker: an outage of a part costs a moment now and then, not one on every request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Breaker:
    """Whether a part that failed may be tried again. Safe to share between threads."""

    def __init__(self, *, pause_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            pause_s: how long nobody tries after a failure.
        """
        self._pause_s = pause_s
        self._clock = clock
        self._lock = threading.Lock()
        self._is_broken = False
        self._closed_until = 0.0

    def may_try(self, *, is_about_to: bool = False) -> bool:
        """
        Args:
            is_about_to: the caller does try now; while it is not known how that ends, others do not.
        """
        with self._lock:
            if self._clock() < self._closed_until:
                return False
            if is_about_to and self._is_broken:
                # One tries, the others do not wait for it.
                self._closed_until = self._clock() + self._pause_s
            return True

    def note(self, *, is_broken: bool) -> None:
        """Say how a try ended."""
        with self._lock:
            self._is_broken = is_broken
            self._closed_until = self._clock() + self._pause_s if is_broken else 0.0
