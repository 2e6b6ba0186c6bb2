"""How long a device has been busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class BusyTime:
    """Counts while the pipeline works; one thread works, others may read."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._total_s = 0.0
        self._since: float | None = None

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self._since = self._clock()
        try:
            yield
        finally:
            with self._lock:
                self._total_s += self._clock() - self._since
                self._since = None

    @property
    def seconds(self) -> float:
        """Since it was made, with what is under way; never less than before."""
        with self._lock:
            return self._total_s + (self._clock() - self._since if self._since is not None else 0.0)
