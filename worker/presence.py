"""A worker's row: that it is here, what it has loaded, and whether it is draining."""

from __future__ import annotations

import logging
import os
import socket
import threading
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, update
from sqlalchemy.dialects.postgresql import insert

from shared.database import Sessions, db_now, translated_errors
from shared.errors import DatabaseError
from shared.jobs.stop import wake_holder
from shared.tables import Worker
from worker.busy import BusyTime
from worker.pipeline import PipelineInfo

log = logging.getLogger(__name__)


class Presence:
    """Says "I am here" every few seconds, from a thread of its own."""

    def __init__(
        self, sessions: Sessions, worker_id: UUID, *, model: str, info: PipelineInfo, busy: BusyTime, every_s: float
    ) -> None:
        self._sessions = sessions
        self._busy = busy
        self._values: dict[str, Any] = {
            "id": worker_id,
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "model": model,
            "revision": info.revision,
            "engine": info.engine,
            "device": info.device,
            "ready": True,
        }
        self._every_s = every_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                values = {**self._values, "busy_s": self._busy.seconds}
                with translated_errors(), self._sessions.begin() as session:
                    session.execute(
                        insert(Worker)
                        .values(**values)
                        .on_conflict_do_update(index_elements=["id"], set_={**values, "last_seen_at": db_now()})
                    )
            except DatabaseError as error:
                log.warning("cannot say that this worker is here: %s", error)
            except Exception:  # the outermost boundary of this thread, which must outlive a missing table
                log.exception("cannot say that this worker is here")
            self._closing.wait(self._every_s)


def begin_drain(sessions: Sessions, worker_id: UUID, grace_s: float) -> None:
    """Take no more jobs; release the one at hand when the grace is over.

    Raises:
        DatabaseError: Postgres is not answering; then the lease runs out instead.
    """
    with translated_errors(), sessions.begin() as session:
        session.execute(
            update(Worker)
            .where(Worker.id == worker_id, Worker.drain_deadline_at.is_(None))
            .values(drain_deadline_at=db_now() + timedelta(seconds=grace_s))
        )
        wake_holder(session, worker_id)


def leave(sessions: Sessions, worker_id: UUID) -> None:
    """Take the row away: the worker has ended in good order."""
    with translated_errors(), sessions.begin() as session:
        session.execute(delete(Worker).where(Worker.id == worker_id))
