"""Finishes one result in a thread of its own, so that the device need not wait for encode and upload."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from shared.errors import StorageError
from shared.ids import show_id
from shared.states import Phase
from worker.attempt import HARD_LIMIT_MARGIN_S, Attempt

_LOOK_S = 0.2
#: with less of its time left, a result that waits could not be encoded and sent any more.
_LEAST_TIME_S = 5.0

log = logging.getLogger(__name__)


class Finisher:
    """At most one result is being finished; the next one waits for it. Used by the thread that generates, only."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def await_turn(self, attempt: Attempt) -> None:
        """Wait with a result until the one before it is done with; it keeps its own lease, flags and deadline.

        Raises:
            AttemptStopped, DeadlineExceededError: its own.
            StorageError: too little of its time is left. The store must have been away for as long.
        """
        while self.is_busy:
            attempt.lease.progress(Phase.ENCODE)  # waiting is no stall
            if attempt.lease.remaining_s < _LEAST_TIME_S:
                raise StorageError("the result before this one could not be stored in time")
            self.join(_LOOK_S)

    def start(self, attempt: Attempt, finish: Callable[[], None]) -> None:
        """Call `finish` in a thread; it must be this attempt's turn.

        As a task that outlives its attempt's deadline, a thread that does so ends the process: nothing else would,
        and all results after it would wait for it.
        """
        name = show_id("job", attempt.claim.job_id)
        watchdog = threading.Timer(attempt.lease.remaining_s + HARD_LIMIT_MARGIN_S, _end_process, (name,))
        watchdog.daemon = True

        def run() -> None:
            try:
                finish()
            except Exception:  # the outermost boundary of this thread; the lease runs out
                log.exception("%s was not finished", name)
            finally:
                watchdog.cancel()

        self._thread = threading.Thread(target=run, name=f"finish-{name[-6:]}")
        watchdog.start()
        self._thread.start()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until nothing is being finished; for good no longer than an attempt may take."""
        if self._thread is not None:
            self._thread.join(timeout_s)


def _end_process(name: str) -> None:
    log.critical("%s is still being finished, long after its deadline: ending this process", name)
    os._exit(1)
