"""Requeue: the one way from `running` back to `queued`."""

from __future__ import annotations

import random
from datetime import timedelta

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from shared.database import db_now
from shared.jobs.end import end_attempt, end_job
from shared.jobs.events import record_event
from shared.states import AttemptOutcome, JobStatus
from shared.tables import Job


def requeue_job(
    session: Session,
    guard: ColumnElement[bool],
    outcome: AttemptOutcome,
    *,
    public_url: str,
    reason: str,
    counts: bool = True,
    delay_s: float = 0,
    error_code: str | None = None,
    error_message: str | None = None,
) -> Job | None:
    """Give a running job back to the queue, if the guard still holds; one that was to be canceled ends instead.

    Args:
        outcome: `lost` and `retried` count towards the job's limits; `released` does not.
        counts: False: nor does this loss. Of a job that ends here every loss counts.
        delay_s: pause before it can be claimed again.

    Returns:
        The job as it is now, or None: somebody else got there first.
    """
    before = session.execute(
        select(Job.id, Job.cancel_requested_at).where(guard, Job.status == JobStatus.RUNNING).with_for_update()
    ).one_or_none()
    if before is None:
        return None
    is_lost = outcome is AttemptOutcome.LOST
    if before.cancel_requested_at is not None:
        return end_job(
            session,
            Job.id == before.id,
            JobStatus.CANCELED,
            public_url=public_url,
            reason="canceled",
            outcome=outcome,
            losses=int(is_lost),
        )
    job = session.scalars(
        update(Job)
        .where(Job.id == before.id)
        .values(
            status=JobStatus.QUEUED,
            lease_token=None,
            lease_expires_at=None,
            deadline_at=None,
            worker_id=None,
            phase=None,
            step=0,
            run_after=db_now() + timedelta(seconds=delay_s) if delay_s > 0 else None,
            losses=Job.losses + int(is_lost and counts),
            transient_failures=Job.transient_failures + int(outcome is AttemptOutcome.RETRIED),
        )
        .returning(Job)
        .execution_options(populate_existing=True)
    ).one()
    record_event(session, job.id, JobStatus.QUEUED, attempt=job.attempt, reason=reason)
    end_attempt(session, job.id, job.attempt, outcome, error_code=error_code, error_message=error_message)
    return job


def retry_pause_s(failures: int, *, base_s: float, max_s: float) -> float:
    """Exponential back-off with "equal jitter": between half and all of base × 2^failures, at most `max_s`."""
    ceiling = min(max_s, base_s * 2.0**failures)
    return ceiling * (0.5 + random.random() / 2)  # noqa: S311  # spreads load, guards nothing
