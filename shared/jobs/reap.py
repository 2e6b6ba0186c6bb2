"""Reap: what must happen to jobs that nobody is looking after. Each function handles one job per transaction."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from shared.database import db_now
from shared.jobs.claim import was_lost
from shared.jobs.end import end_job
from shared.jobs.requeue import requeue_job
from shared.states import AttemptOutcome, JobStatus
from shared.tables import Attempt, Job


def lease_expired() -> ColumnElement[bool]:
    return and_(Job.status == JobStatus.RUNNING, Job.lease_expires_at < db_now())


def past_deadline() -> ColumnElement[bool]:
    """Overdue, although its worker still beats; one that does not is lost, which is no failure of the job's."""
    return and_(Job.status == JobStatus.RUNNING, Job.deadline_at < db_now(), Job.lease_expires_at >= db_now())


def too_long_in_queue(queue_ttl_s: float) -> ColumnElement[bool]:
    """Never tried, although any worker could have taken it for longer than the queue's limit.

    Nobody can take what is held, and what was held has `run_after` from when that ended.
    """
    free_since = func.coalesce(Job.run_after, Job.created_at)
    return and_(
        Job.status == JobStatus.QUEUED,
        Job.attempt == 0,
        ~Job.held,
        free_since < db_now() - timedelta(seconds=queue_ttl_s),
    )


def find_jobs(session: Session, condition: ColumnElement[bool], limit: int = 200) -> list[UUID]:
    """Candidates; each is looked at again under its row lock."""
    return list(session.scalars(select(Job.id).where(condition).limit(limit)))


def reap_lost_job(session: Session, job_id: UUID, *, lease_s: float, max_losses: int, public_url: str) -> Job | None:
    """A running job whose lease ran out: canceled if asked, failed after too many losses, else queued again.

    Once in its life a loss is not counted: if the worker was lost with another job on its device, see `_is_collateral`.
    A worker runs a job that was lost before by itself, so the next loss is its own.
    """
    guard = and_(Job.id == job_id, lease_expired())
    job = session.scalars(select(Job).where(guard).with_for_update(skip_locked=True)).one_or_none()
    if job is None:
        return None
    if session.scalar(select(_is_collateral(lease_s)).where(Job.id == job_id)):
        return requeue_job(
            session, guard, AttemptOutcome.LOST, public_url=public_url, reason="collateral_loss", counts=False
        )
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


def _is_collateral(lease_s: float) -> ColumnElement[bool]:
    """Whether this first loss is rather another job's fault: its worker had that one on the device by then.

    A worker generates one job at a time: if it has begun a later one, the result of this one was only being finished.
    Did both fall silent together? Heartbeats are at most a third of a lease apart, so the leases of two that did run
    out within less than half of one. If it went on with the later one, what silenced this one is its own matter.
    """
    expired_at, half = Job.lease_expires_at, timedelta(seconds=lease_s / 2)
    other = aliased(Job)
    silent = exists().where(
        other.status == JobStatus.RUNNING,
        other.worker_id == Job.worker_id,
        other.started_at > Job.started_at,
        other.lease_expires_at.between(expired_at - half, expired_at + half),
    )
    reaped = exists().where(
        Attempt.outcome == AttemptOutcome.LOST,
        Attempt.worker_id == Job.worker_id,
        Attempt.started_at > Job.started_at,
        Attempt.ended_at > expired_at - half,
    )
    return and_(or_(silent, reaped), ~was_lost(Job.id))


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
