"""Cancel and delete: what a user may ask of a job that exists."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, select, update
from sqlalchemy.orm import Session

from shared.database import db_now
from shared.errors import ConflictError
from shared.jobs.end import end_job
from shared.jobs.lease import STOP_CHANNEL
from shared.states import JobStatus
from shared.tables import Job


def cancel_job(session: Session, owned: ColumnElement[bool], *, public_url: str) -> Job | None:
    """Cancel: a queued job ends at once; a running one is flagged, and its worker stops within a denoising step.

    Args:
        owned: names the job and its tenant.

    Returns:
        The job as it is now; None: there is no such job.

    Raises:
        ConflictError: it has ended otherwise.
    """
    job = session.scalars(select(Job).where(owned).with_for_update()).one_or_none()
    if job is None:
        return None
    match JobStatus(job.status):
        case JobStatus.QUEUED:
            return end_job(session, Job.id == job.id, JobStatus.CANCELED, public_url=public_url, reason="canceled")
        case JobStatus.RUNNING:
            _flag(session, job)
        case JobStatus.CANCELED:
            pass
        case ended:
            raise ConflictError(f"the job has {ended} already, so it cannot be canceled")
    return job


def request_deletion(session: Session, owned: ColumnElement[bool], *, public_url: str) -> bool:
    """Hide a job at once, cancel it if need be, and have the maintainer erase it. False: there is no such job."""
    job = session.scalars(select(Job).where(owned, Job.delete_requested_at.is_(None)).with_for_update()).one_or_none()
    if job is None:
        return False
    if job.status == JobStatus.QUEUED:
        end_job(session, Job.id == job.id, JobStatus.CANCELED, public_url=public_url, reason="deleted")
    elif job.status == JobStatus.RUNNING:
        _flag(session, job)
    session.execute(update(Job).where(Job.id == job.id).values(delete_requested_at=db_now()))
    return True


def _flag(session: Session, job: Job) -> None:
    session.execute(
        update(Job)
        .where(and_(Job.id == job.id, Job.cancel_requested_at.is_(None)))
        .values(cancel_requested_at=db_now())
        .execution_options(synchronize_session=False)
    )
    wake_holder(session, job.id)
    session.refresh(job)


def wake_holder(session: Session, holder: UUID) -> None:
    """Have the worker that runs this job, or is this worker, beat at once."""
    session.execute(select(func.pg_notify(STOP_CHANNEL, str(holder))))
