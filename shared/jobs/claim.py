"""Claim: one statement picks the best claimable job and starts an attempt on it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Integer, Row, and_, cast, exists, insert, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from shared.database import db_now
from shared.jobs.end import end_job
from shared.jobs.events import record_event
from shared.params import GenerationParams
from shared.states import AttemptOutcome, JobStatus, Phase
from shared.tables import Attempt, Input, Job, Worker


def claimable() -> ColumnElement[bool]:
    """What a worker may take now: the one predicate of claim, sweep and autoscaling."""
    return and_(Job.status == JobStatus.QUEUED, ~Job.held, or_(Job.run_after.is_(None), Job.run_after <= db_now()))


@dataclass(frozen=True)
class Claim:
    """An attempt and its fence. Whoever holds `attempt` and `lease_token` may write, no one else."""

    job_id: UUID
    tenant_id: UUID
    attempt: int
    lease_token: UUID
    model: str
    params: GenerationParams
    input_id: UUID
    input_key: str
    input_sha256: str
    #: how often a retryable error has sent the job back already.
    transient_failures: int
    #: whether a worker was lost while it ran this job.
    was_lost: bool
    #: by the database's clock.
    started_at: datetime

    def holds(self) -> ColumnElement[bool]:
        """True for the job's row while this attempt is the one that counts."""
        return and_(
            Job.id == self.job_id,
            Job.attempt == self.attempt,
            Job.lease_token == self.lease_token,
            Job.status == JobStatus.RUNNING,
        )


def claim_job(
    session: Session, *, model: str, worker_id: UUID, lease_s: float, attempt_deadline_s: float, public_url: str
) -> Claim | None:
    """Take the best claimable job of a model; None when there is none, or the worker is draining.

    A job whose stored parameters this version no longer understands is failed on the way: it must not block the queue.
    """
    while (
        row := _take_best(session, model, worker_id, lease_s=lease_s, attempt_deadline_s=attempt_deadline_s)
    ) is not None:
        session.execute(insert(Attempt).values(job_id=row.id, attempt=row.attempt, worker_id=worker_id))
        session.execute(update(Worker).where(Worker.id == worker_id).values(job_id=row.id, last_seen_at=db_now()))
        record_event(session, row.id, JobStatus.RUNNING, attempt=row.attempt, reason="claimed")
        try:
            params = GenerationParams.model_validate(row.params)
        except ValidationError as error:
            end_job(
                session,
                Job.id == row.id,
                JobStatus.FAILED,
                public_url=public_url,
                reason="invalid_params",
                error_code="invalid_params",
                error_message=f"this version cannot run the stored parameters: {error.error_count()} are out of range",
            )
            continue
        return Claim(
            job_id=row.id,
            tenant_id=row.tenant_id,
            attempt=row.attempt,
            lease_token=row.lease_token,
            model=model,
            params=params,
            input_id=row.input_id,
            input_key=row.object_key,
            input_sha256=row.sha256,
            transient_failures=row.transient_failures,
            was_lost=row.attempt > 1 and session.scalar(select(was_lost(row.id))) is True,
            started_at=row.started_at,
        )
    return None


def was_lost(job_id: UUID | InstrumentedAttribute[UUID]) -> ColumnElement[bool]:
    """Whether an attempt at this job has ended with its worker's silence, counted as a loss or not."""
    return exists().where(Attempt.job_id == job_id, Attempt.outcome == AttemptOutcome.LOST)


def _take_best(
    session: Session, model: str, worker_id: UUID, *, lease_s: float, attempt_deadline_s: float
) -> Row[Any] | None:
    best = (
        select(Job.id)
        .where(claimable(), Job.model == model)
        .order_by(Job.priority.desc(), Job.rank, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    draining = select(Worker.id).where(Worker.id == worker_id, Worker.drain_deadline_at.is_not(None)).exists()
    return session.execute(
        update(Job)
        .where(Job.id == best, Input.id == Job.input_id, ~draining)
        .values(
            status=JobStatus.RUNNING,
            attempt=Job.attempt + 1,
            lease_token=uuid4(),
            lease_expires_at=db_now() + timedelta(seconds=lease_s),
            deadline_at=db_now() + timedelta(seconds=attempt_deadline_s),
            worker_id=worker_id,
            phase=Phase.FETCH,
            step=0,
            total_steps=cast(Job.params["num_inference_steps"].astext, Integer),
            started_at=db_now(),
            run_after=None,
        )
        .returning(
            Job.id,
            Job.tenant_id,
            Job.attempt,
            Job.lease_token,
            Job.params,
            Job.input_id,
            Input.object_key,
            Input.sha256,
            Job.transient_failures,
            Job.started_at,
        )
        .execution_options(synchronize_session=False)
    ).one_or_none()
