"""An attempt's lease, kept by a thread of its own: it beats, fetches the stop flags, and knows when to give up.

The generating thread calls `progress` at every step; that is where it learns that it must stop.
"""

from __future__ import annotations

import logging
import threading
import time
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session

from shared.database import translated_errors
from shared.errors import AnimaticError, DatabaseError, DeadlineExceededError
from shared.jobs.claim import Claim
from shared.jobs.lease import STOP_CHANNEL, extend_lease
from shared.settings import Settings
from shared.states import Phase

#: progress is written at most this often, a cancel flag looked for as soon as Postgres notifies.
_PROGRESS_S = 1.0
_NAP_S = 0.2
#: an attempt stops by itself this much before the reaper would fail it.
_DEADLINE_MARGIN_S = 2.0

log = logging.getLogger(__name__)


class StopReason(StrEnum):
    #: the user asked for it.
    CANCEL = "cancel"
    #: the worker is stopping and its grace is over.
    RELEASE = "release"
    #: the lease is, or may be, somebody else's by now.
    LOST = "lost"
    #: Postgres did not answer for too long to be sure of the lease; perhaps nobody else could take it either.
    CUT_OFF = "cut_off"
    #: no step for so long that the device must be presumed hung; the lease runs out, and that counts.
    STALLED = "stalled"


#: with these the job may be somebody else's.
_LOSSES = frozenset({StopReason.LOST, StopReason.CUT_OFF, StopReason.STALLED})


class AttemptStopped(AnimaticError):  # noqa: N818  # not an error: the work was asked to stop
    """The attempt must stop now."""

    code = "attempt_stopped"

    def __init__(self, reason: StopReason) -> None:
        super().__init__(f"stopped: {reason}")
        self.reason = reason


class Lease:
    """Keeps one attempt alive while it moves. A context manager: beats from enter to exit."""

    def __init__(self, engine: Engine, claim: Claim, settings: Settings) -> None:
        self.claim = claim
        self._engine = engine
        self._settings = settings
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._stop: StopReason | None = None
        self._phase, self._step, self._total = Phase.FETCH, 0, claim.params.num_inference_steps
        self._dirty = False
        #: whether Postgres owes us an answer, or gave none the last time.
        self._unanswered = False
        started = time.monotonic()
        self._moved_at = self._beaten_at = started
        self._deadline = started + settings.attempt_deadline_s - _DEADLINE_MARGIN_S
        self._thread = threading.Thread(target=self._run, name=f"lease-{claim.job_id.hex[-6:]}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Not joined: it ends after its nap, and the next job need not wait for that.
        self._closing.set()

    def progress(self, phase: Phase, step: int = 0, total: int = 0) -> None:
        """Note that the work has moved, and learn whether it is to go on.

        Raises:
            AttemptStopped: canceled, to be released, or no longer ours.
            DeadlineExceededError: the attempt has taken longer than it may.
        """
        with self._lock:
            self._moved_at = time.monotonic()
            self._dirty = True
            self._phase = phase
            if phase is Phase.DENOISE:
                self._step, self._total = step, total
        self.check()

    def check(self) -> None:
        """As `progress`, without having moved."""
        reason = self._find_reason()
        if reason is not None:
            raise AttemptStopped(reason)
        if time.monotonic() > self._deadline:
            raise DeadlineExceededError(
                f"the attempt took longer than attempt_deadline_s allows ({self._settings.attempt_deadline_s:g} s)"
            )

    @property
    def is_lost(self) -> bool:
        """Whether somebody else may hold the job by now."""
        return self._find_reason() in _LOSSES

    @property
    def remaining_s(self) -> float:
        """Seconds left before the attempt's deadline."""
        return self._deadline - time.monotonic()

    def _find_reason(self) -> StopReason | None:
        """Why to stop, if at all. Asked by both threads: a heartbeat may hang for longer than a lease."""
        with self._lock:
            silence = time.monotonic() - self._beaten_at
            if self._stop not in _LOSSES and silence > self._settings.lease_s * 2 / 3:
                # By our own clock, and well before anybody else may take the job.
                log.error("no heartbeat for two thirds of the lease: giving up %s", self.claim.job_id)
                self._stop = StopReason.CUT_OFF if self._unanswered else StopReason.LOST
            return self._stop

    def _run(self) -> None:
        while not self._closing.is_set() and not self.is_lost:
            self._unanswered = True
            try:
                with translated_errors(), self._engine.connect() as connection:
                    connection = connection.execution_options(isolation_level="AUTOCOMMIT")
                    connection.exec_driver_sql(f"LISTEN {STOP_CHANNEL}")
                    self._beat_until_closed(connection)
            except DatabaseError as error:
                log.warning("a heartbeat of %s failed: %s", self.claim.job_id, error)
                self._closing.wait(1.0)
            except Exception:  # the outermost boundary of this thread: without it the lease would run out in silence
                log.exception("a heartbeat of %s failed", self.claim.job_id)
                self._closing.wait(1.0)

    def _beat_until_closed(self, connection: Connection) -> None:
        # A canceled or draining attempt beats on: it needs its lease until it has stopped.
        due = True
        while not self._closing.is_set() and not self.is_lost:
            silence = time.monotonic() - self._beaten_at
            if due or silence >= self._settings.heartbeat_s or (self._dirty and silence >= _PROGRESS_S):
                self._beat(connection)
            due = _nap(connection)

    def _beat(self, connection: Connection) -> None:
        with self._lock:
            phase, step, total, self._dirty = self._phase, self._step, self._total, False
            if time.monotonic() - self._moved_at > self._settings.stall_limit_s:
                # A heartbeat must not keep a hung device alive.
                log.error("no step for %g s: giving up %s", self._settings.stall_limit_s, self.claim.job_id)
                self._stop = StopReason.STALLED
                return
        asked_at = time.monotonic()
        self._unanswered = True
        with Session(connection) as session:
            flags = extend_lease(
                session, self.claim, phase=phase, step=step, total_steps=total, lease_s=self._settings.lease_s
            )
        with self._lock:
            self._unanswered = False
            if flags is None:
                self._stop = StopReason.LOST
                return
            self._beaten_at = asked_at
            if flags.cancel:
                self._stop = self._stop or StopReason.CANCEL
            elif flags.release:
                self._stop = self._stop or StopReason.RELEASE


def _nap(connection: Connection) -> bool:
    """Sleep a moment; True: something was notified that a beat should look at.

    Raises:
        DatabaseError: the connection was cut.
    """
    driver: Any = connection.connection.driver_connection
    try:
        # Flags of other jobs and workers notify too; a beat more does no harm.
        return any(True for _ in driver.notifies(timeout=_NAP_S, stop_after=1))
    except psycopg.Error as error:
        raise DatabaseError("the connection to Postgres was cut") from error
