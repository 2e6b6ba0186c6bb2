"""Room for requests that may take long: each holds a thread, and some threads must stay free for all the others."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from shared.errors import RateLimitedError


class Places:
    """So many at once in this process, of which one tenant may have three quarters. Safe to share between threads."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._share = max(1, count * 3 // 4)
        self._taken: Counter[UUID] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def take(self, tenant_id: UUID) -> Iterator[None]:
        """Hold a place.

        Raises:
            RateLimitedError: there is none, or none for this tenant.
        """
        with self._lock:
            if self._taken.total() >= self._count or self._taken[tenant_id] >= self._share:
                raise RateLimitedError("too many streams, long polls and uploads are under way; try again")
            self._taken[tenant_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken[tenant_id] -= 1
                self._taken += Counter()  # forget tenants at zero
