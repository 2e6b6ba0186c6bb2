"""One row per transition."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from sqlalchemy import insert
from sqlalchemy.orm import Session

from shared.states import JobStatus
from shared.tables import JobEvent


def record_event(session: Session, job_id: UUID, status: JobStatus, *, attempt: int, reason: str) -> None:
    record_events(session, [(job_id, attempt)], status, reason=reason)


def record_events(session: Session, jobs: Iterable[tuple[UUID, int]], status: JobStatus, *, reason: str) -> None:
    """
    Args:
        jobs: of each the id and the attempt; at least one.
    """
    session.execute(
        insert(JobEvent),
        [{"job_id": job_id, "status": status, "attempt": attempt, "reason": reason} for job_id, attempt in jobs],
    )
