"""End: the one way to a terminal status, whoever takes it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.database import db_now
from shared.ids import new_id
from shared.jobs.events import record_event
from shared.jobs.resource import JobResource, job_resource
from shared.states import AttemptOutcome, JobStatus
from shared.tables import Attempt, Job, WebhookDelivery, Worker

_OUTCOMES = {
    JobStatus.SUCCEEDED: AttemptOutcome.SUCCEEDED,
    JobStatus.FAILED: AttemptOutcome.FAILED,
    JobStatus.CANCELED: AttemptOutcome.CANCELED,
}


class WebhookMessage(BaseModel):
    """The body of a webhook. Source: Standard Webhooks, "Payload structure"."""

    type: str
    timestamp: str
    data: JobResource


def end_job(
    session: Session,
    guard: ColumnElement[bool],
    status: JobStatus,
    *,
    public_url: str,
    reason: str,
    result: dict[str, Any] | None = None,
    measures: dict[str, float | None] | None = None,
    error_code: str | None = None,
    error_message: str | None = None,
    outcome: AttemptOutcome | None = None,
    losses: int = 0,
) -> Job | None:
    """Move one job to a terminal status, if the guard still holds for it.

    The fenced UPDATE comes first; only who got the row writes the event, the attempt's end and the delivery.

    Args:
        guard: names the job and all that must still be true of it: a worker's `Claim.holds()`, an expired lease…
        status: terminal.
        reason: for the event.
        outcome: of the running attempt, if it is not the one that the status implies.
        losses: to add to the job's count.

    Returns:
        The job as it is now, or None: somebody else got there first.
    """
    if not status.is_terminal:
        raise ValueError(f"{status} is not a terminal status")
    before = session.execute(select(Job.id, Job.status, Job.attempt).where(guard).with_for_update()).one_or_none()
    if before is None:
        return None
    job = session.scalars(
        update(Job)
        .where(Job.id == before.id)
        .values(
            status=status,
            result=result,
            measures=measures,
            error_code=error_code,
            error_message=error_message,
            finished_at=db_now(),
            lease_token=None,
            lease_expires_at=None,
            deadline_at=None,
            run_after=None,
            losses=Job.losses + losses,
        )
        .returning(Job)
        .execution_options(populate_existing=True)
    ).one()
    record_event(session, job.id, status, attempt=job.attempt, reason=reason)
    if before.status == JobStatus.RUNNING:
        end_attempt(
            session,
            job.id,
            job.attempt,
            outcome or _OUTCOMES[status],
            error_code=error_code,
            error_message=error_message,
        )
    if job.webhook_url is not None:
        _make_delivery(session, job, public_url)
    return job


def end_attempt(
    session: Session,
    job_id: UUID,
    attempt: int,
    outcome: AttemptOutcome,
    *,
    error_code: str | None = None,
    error_message: str | None = None,
) -> None:
    """Close an attempt's record and take the job off its worker."""
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == job_id, Attempt.attempt == attempt, Attempt.outcome.is_(None))
        .values(outcome=outcome, ended_at=db_now(), error_code=error_code, error_message=error_message)
    )
    session.execute(update(Worker).where(Worker.job_id == job_id).values(job_id=None))


def _make_delivery(session: Session, job: Job, public_url: str) -> None:
    message = WebhookMessage(
        type=f"job.{job.status}",
        timestamp=(job.finished_at or job.updated_at).isoformat(),
        data=job_resource(job, public_url),
    )
    session.execute(
        insert(WebhookDelivery).values(
            id=new_id(),
            tenant_id=job.tenant_id,
            job_id=job.id,
            event_type=message.type,
            url=job.webhook_url,
            host=urlsplit(job.webhook_url or "").netloc.lower(),
            body=message.model_dump_json().encode(),
        )
    )
