"""A ghost: finishes attempts that are over, as a worker would that woke up too late and had lost count of time.

Real workers stop by their own clock well before their lease ends, so they seldom get as far as the fence. The ghost
remembers the lease of every attempt that it sees running, and when the attempt is over, tries to end the job with it.
"""

from __future__ import annotations

import threading
from uuid import UUID

from sqlalchemy import and_, select

from shared.database import Sessions, translated_errors
from shared.errors import DatabaseError
from shared.jobs.end import end_job
from shared.states import JobStatus
from shared.tables import Job

_LOOK_S = 0.25


class Ghost:
    """A thread beside the workers, with their rights on the database."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._seen: dict[tuple[UUID, int], UUID] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ghost")
        #: attempts (job, number) whose late finish Postgres turned away, and let pass: none, or the fence leaks.
        self.rejected: set[tuple[UUID, int]] = set()
        self.let_pass: set[tuple[UUID, int]] = set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(_LOOK_S):
            try:
                with translated_errors():
                    self._haunt()
            except DatabaseError:
                continue

    def _haunt(self) -> None:
        with self._sessions() as session:
            running = session.execute(
                select(Job.id, Job.attempt, Job.lease_token).where(Job.status == JobStatus.RUNNING)
            ).all()
        current = {(row.id, row.attempt): row.lease_token for row in running}
        # Gone from the list: `attempt` only grows, so such a lease can never be good again.
        for (job_id, attempt), token in list(self._seen.items()):
            if (job_id, attempt) not in current:
                with self._sessions.begin() as session:
                    ended = end_job(
                        session,
                        and_(
                            Job.id == job_id,
                            Job.attempt == attempt,
                            Job.lease_token == token,
                            Job.status == JobStatus.RUNNING,
                        ),
                        JobStatus.FAILED,
                        public_url="http://ghost.invalid",
                        reason="ghost",
                        error_code="ghost",
                    )
                (self.rejected if ended is None else self.let_pass).add((job_id, attempt))
                del self._seen[job_id, attempt]
        self._seen |= {attempt: token for attempt, token in current.items() if token is not None}
