"""End: the one way to a terminal status, whoever takes it."""

from __future__ import annotations

from typing import Any, Required, TypedDict, Unpack
from uuid import UUID

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from shared.database import db_now
from shared.deliveries import insert_delivery
from shared.experiments.finish import finish_if_ended
from shared.jobs.events import record_events
from shared.jobs.resource import job_resource
from shared.states import AttemptOutcome, JobStatus
from shared.tables import Attempt, Job, Worker

_OUTCOMES = {
    JobStatus.SUCCEEDED: AttemptOutcome.SUCCEEDED,
    JobStatus.FAILED: AttemptOutcome.FAILED,
    JobStatus.CANCELED: AttemptOutcome.CANCELED,
}


class Ending(TypedDict, total=False):
    """How a job ends, besides its status."""

    #: `ANIMATIC_PUBLIC_URL`, for the webhook.
    public_url: Required[str]
    #: for the event.
    reason: Required[str]
    result: dict[str, Any] | None
    measures: dict[str, float | None] | None
    error_code: str | None
    error_message: str | None
    #: of the running attempt, if it is not the one that the status implies.
    outcome: AttemptOutcome | None
    #: to add to the job's count.
    losses: int


def end_job(session: Session, guard: ColumnElement[bool], status: JobStatus, **ending: Unpack[Ending]) -> Job | None:
    """Move one job to a terminal status, if the guard still holds for it.

    The fenced UPDATE comes first; only who got the row writes the event, the attempt's end and the delivery.

    Args:
        guard: names the job and all that must still be true of it: a worker's `Claim.holds()`, an expired lease…
        status: terminal.

    Returns:
        The job as it is now, or None: somebody else got there first.
    """
    jobs = end_jobs(session, guard, status, **ending)
    return jobs[0] if jobs else None


def end_jobs(session: Session, guard: ColumnElement[bool], status: JobStatus, **ending: Unpack[Ending]) -> list[Job]:
    """As `end_job`, all jobs for which the guard holds at once.

    Rows are locked in the order of their ids, and after them the rows of the experiments that made the jobs.
    """
    if not status.is_terminal:
        raise ValueError(f"{status} is not a terminal status")
    before = session.execute(
        select(Job.id, Job.status, Job.attempt).where(guard).order_by(Job.id).with_for_update()
    ).all()
    if not before:
        return []
    jobs = session.scalars(
        update(Job)
        .where(Job.id.in_([row.id for row in before]))
        .values(
            status=status,
            result=ending.get("result"),
            measures=ending.get("measures"),
            error_code=ending.get("error_code"),
            error_message=ending.get("error_message"),
            finished_at=db_now(),
            lease_token=None,
            lease_expires_at=None,
            deadline_at=None,
            run_after=None,
            losses=Job.losses + ending.get("losses", 0),
        )
        .returning(Job)
        .execution_options(populate_existing=True)
    ).all()
    record_events(session, [(row.id, row.attempt) for row in before], status, reason=ending["reason"])
    for row in before:
        if row.status == JobStatus.RUNNING:
            end_attempt(
                session,
                row.id,
                row.attempt,
                ending.get("outcome") or _OUTCOMES[status],
                error_code=ending.get("error_code"),
                error_message=ending.get("error_message"),
            )
    for job in jobs:
        if job.webhook_url is not None:
            insert_delivery(
                session,
                f"job.{status}",
                job.finished_at or job.updated_at,
                job_resource(job, ending["public_url"]),
                tenant_id=job.tenant_id,
                url=job.webhook_url,
                job_id=job.id,
            )
    for experiment_id in {job.experiment_id for job in jobs if job.experiment_id is not None}:
        finish_if_ended(session, experiment_id, public_url=ending["public_url"])
    return list(jobs)


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
