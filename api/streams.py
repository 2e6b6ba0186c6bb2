"""Waiting for a job to change, without asking again and again and without holding a database connection each.

One thread per process listens on Postgres; waiting requests sleep on an event of their own. When the listener has lost
its connection, waiters fall back to looking every few seconds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import psycopg
from sqlalchemy import Engine

JOBS_CHANNEL = "animatic_jobs"
FALLBACK_S = 5.0

log = logging.getLogger(__name__)


class JobStreams:
    """Wakes whoever waits for a job."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: dict[UUID, set[threading.Event]] = defaultdict(set)
        self._lock = threading.Lock()
        self._listener: threading.Thread | None = None
        #: asked between naps; the server sets it when it is about to stop.
        self.is_stopping: Callable[[], bool] = lambda: False

    @contextmanager
    def subscribe(self, job_id: UUID) -> Iterator[Subscription]:
        """Be woken when the job changes, from now on: subscribe first, then read."""
        event = threading.Event()
        with self._lock:
            self._waiting[job_id].add(event)
            if self._listener is None:
                self._listener = threading.Thread(target=self._listen, name="job-streams", daemon=True)
                self._listener.start()
        try:
            yield Subscription(self, event)
        finally:
            with self._lock:
                self._waiting[job_id].discard(event)
                if not self._waiting[job_id]:
                    del self._waiting[job_id]

    def _listen(self) -> None:
        url = self._engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        while not self.is_stopping():
            try:
                with psycopg.connect(
                    url, autocommit=True, connect_timeout=5, application_name="animatic-streams"
                ) as connection:
                    connection.execute(f"LISTEN {JOBS_CHANNEL}")
                    self._wake_all()  # whatever changed while nobody listened
                    while not self.is_stopping():
                        for notification in connection.notifies(timeout=1.0):
                            self._wake(UUID(notification.payload))
            except psycopg.Error as error:
                log.warning("lost the listener's connection, trying again: %s", type(error).__name__)
                time.sleep(1)
            except Exception:  # the outermost boundary of this thread: nobody would start another
                log.exception("the listener failed, trying again")
                time.sleep(1)

    def _wake(self, job_id: UUID) -> None:
        with self._lock:
            for event in self._waiting.get(job_id, ()):
                event.set()

    def _wake_all(self) -> None:
        with self._lock:
            for events in self._waiting.values():
                for event in events:
                    event.set()


class Subscription:
    """One request's place in the waiting room."""

    def __init__(self, streams: JobStreams, event: threading.Event) -> None:
        self._streams = streams
        self._event = event

    def wait(self, timeout_s: float) -> bool:
        """Sleep until the job changes, the time is over, or the server stops. False: the server stops."""
        end = time.monotonic() + min(timeout_s, FALLBACK_S)
        while (remaining := end - time.monotonic()) > 0:
            if self._streams.is_stopping():
                return False
            if self._event.wait(min(remaining, 0.5)):
                self._event.clear()
                break
        return not self._streams.is_stopping()
