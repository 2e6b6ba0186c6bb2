"""One row per transition."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import insert
from sqlalchemy.orm import Session

from shared.states import JobStatus
from shared.tables import JobEvent


def record_event(session: Session, job_id: UUID, status: JobStatus, *, attempt: int, reason: str) -> None:
    session.execute(insert(JobEvent).values(job_id=job_id, status=status, attempt=attempt, reason=reason))
