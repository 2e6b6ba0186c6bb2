"""Reap: what must happen to jobs that nobody is looking after. Each function handles one job per transaction."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from shared.database import db_now
from shared.jobs.end import end_job
from shared.jobs.requeue import requeue_job
from shared.states import AttemptOutcome, JobStatus
from shared.tables import Job


def lease_expired() -> ColumnElement[bool]:
    return and_(Job.status == JobStatus.RUNNING, Job.lease_expires_at < db_now())


def past_deadline() -> ColumnElement[bool]:
    """Overdue, although its worker still beats; one that does not is lost, which is no failure of the job's."""
    return and_(Job.status == JobStatus.RUNNING, Job.deadline_at < db_now(), Job.lease_expires_at >= db_now())


def too_long_in_queue(queue_ttl_s: float) -> ColumnElement[bool]:
    """Never tried, and older than the queue's limit."""
    return and_(
        Job.status == JobStatus.QUEUED,
        Job.attempt == 0,
        Job.created_at < db_now() - timedelta(seconds=queue_ttl_s),
    )


def find_jobs(session: Session, condition: ColumnElement[bool], limit: int = 200) -> list[UUID]:
    """Candidates; each is looked at again under its row lock."""
    return list(session.scalars(select(Job.id).where(condition).limit(limit)))


def reap_lost_job(session: Session, job_id: UUID, *, max_losses: int, public_url: str) -> Job | None:
    """A running job whose lease ran out: canceled if asked, failed after too many losses, else queued again."""
    guard = and_(Job.id == job_id, lease_expired())
    job = session.scalars(select(Job).where(guard).with_for_update(skip_locked=True)).one_or_none()
    if job is None:
        return None
    if job.losses + 1 >= max_losses and job.cancel_requested_at is None:
        return end_job(
            session,
            guard,
            JobStatus.FAILED,
            public_url=public_url,
            reason="worker_lost",
            error_code="worker_lost",
            error_message=f"the worker was lost {job.losses + 1} times while running this job",
            outcome=AttemptOutcome.LOST,
            losses=1,
        )
    return requeue_job(session, guard, AttemptOutcome.LOST, public_url=public_url, reason="worker_lost")


def reap_overdue_job(session: Session, job_id: UUID, *, public_url: str) -> Job | None:
    """A running job past its attempt's deadline fails, although its worker still beats."""
    return end_job(
        session,
        and_(Job.id == job_id, past_deadline()),
        JobStatus.FAILED,
        public_url=public_url,
        reason="deadline_exceeded",
        error_code="deadline_exceeded",
        error_message="the attempt took longer than it may",
    )


def expire_queued_job(session: Session, job_id: UUID, *, queue_ttl_s: float, public_url: str) -> Job | None:
    """A job that no worker took within the queue's limit fails."""
    return end_job(
        session,
        and_(Job.id == job_id, too_long_in_queue(queue_ttl_s)),
        JobStatus.FAILED,
        public_url=public_url,
        reason="expired_in_queue",
        error_code="expired_in_queue",
        error_message=f"no worker took the job within {queue_ttl_s:g} s",
    )
