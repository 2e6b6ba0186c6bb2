"""Steer: pause, resume, cancel, retry and delete an experiment as a whole. Those who steer the same one take turns."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, func, select, update
from sqlalchemy.orm import Session

from shared.database import db_now
from shared.errors import ConflictError
from shared.experiments.accept import NewCell, insert_cell_jobs
from shared.experiments.finish import OPEN_STATUSES
from shared.jobs.accept import lock_input
from shared.jobs.end import end_jobs
from shared.jobs.rank import experiment_ranks
from shared.jobs.stop import wake_holder
from shared.quotas import Quotas, check_queue, check_storage, hold_usage
from shared.states import JobStatus
from shared.tables import Experiment, ExperimentCell, IdempotencyKey, Input, Job, WebhookDelivery


@dataclass(frozen=True)
class _Open:
    """Ids of the experiment's jobs that have not ended."""

    queued: list[UUID]
    running: list[UUID]


def pause_experiment(session: Session, owned: ColumnElement[bool]) -> Experiment | None:
    """Hold what waits, so that nobody claims it; what runs, runs on.

    A running job is held as well: should it come back to the queue, it waits there.

    Args:
        owned: names the experiment and its tenant.

    Returns:
        The experiment as it is now; None: there is none.

    Raises:
        ConflictError: it has finished.
    """
    experiment = _take_turn(session, owned)
    if experiment is None or _steered(experiment).held:
        return experiment
    _lock_open_jobs(session, experiment)
    session.execute(
        update(Job).where(_is_open(experiment)).values(held=True).execution_options(synchronize_session=False)
    )
    return _set_held(session, experiment, held=True)


def resume_experiment(session: Session, owned: ColumnElement[bool]) -> Experiment | None:
    """Let what was held be claimed again, as if it came now: a pause earns no precedence, and no job expires of it.

    Returns, raises: as `pause_experiment`.
    """
    experiment = _take_turn(session, owned)
    if experiment is None or not _steered(experiment).held:
        return experiment
    _lock_open_jobs(session, experiment)
    start, step = experiment_ranks(session, experiment)
    place = (
        select(Job.id, func.row_number().over(order_by=(Job.rank, Job.id)).label("number"))
        .where(_is_open(experiment))
        .subquery()
    )
    session.execute(
        update(Job)
        .where(Job.id == place.c.id)
        .values(held=False, rank=start + step * place.c.number, run_after=func.greatest(Job.run_after, db_now()))
        .execution_options(synchronize_session=False)
    )
    return _set_held(session, experiment, held=False)


def cancel_experiment(session: Session, owned: ColumnElement[bool], *, public_url: str) -> Experiment | None:
    """Cancel what has not ended: what waits ends at once, what runs within a denoising step.

    Returns:
        The experiment as it is now; None: there is none.
    """
    experiment = _take_turn(session, owned)
    if experiment is None:
        return None
    jobs = _lock_open_jobs(session, experiment)
    if jobs.running:
        session.execute(
            update(Job)
            .where(Job.id.in_(jobs.running), Job.cancel_requested_at.is_(None))
            .values(cancel_requested_at=db_now())
            .execution_options(synchronize_session=False)
        )
        for job_id in jobs.running:
            wake_holder(session, job_id)
    if jobs.queued:
        end_jobs(session, Job.id.in_(jobs.queued), JobStatus.CANCELED, public_url=public_url, reason="canceled")
    session.refresh(experiment)
    return experiment


def retry_experiment(session: Session, owned: ColumnElement[bool], quotas: Quotas) -> tuple[Experiment | None, int]:
    """Make a new job, of the same parameters and seed, for each cell whose job failed and was not deleted.

    Returns:
        The experiment as it is now, None if there is none; and how many jobs were made.

    Raises:
        RateLimitedError: the tenant would have too many queued jobs.
        QuotaExceededError: it has no room for results.
    """
    experiment = _take_turn(session, owned)
    if experiment is None:
        return None, 0
    failed = session.execute(
        select(ExperimentCell, Job, Input)
        .join(Job, Job.id == ExperimentCell.job_id)
        .join(Input, Input.id == Job.input_id)
        .where(
            ExperimentCell.experiment_id == experiment.id,
            Job.status == JobStatus.FAILED,
            Job.delete_requested_at.is_(None),
        )
        .order_by(ExperimentCell.index)
    ).all()
    if not failed:
        if experiment.wandb_status == "failed":
            _track_anew(session, experiment)
        return experiment, 0
    usage = hold_usage(session, experiment.tenant_id, quotas, adding=len(failed))
    check_queue(usage, adding=len(failed))
    check_storage(usage)
    # An experiment that has finished runs again. Whoever ends a job of it now waits for this transaction.
    experiment = session.scalars(
        update(Experiment)
        .where(Experiment.id == experiment.id)
        .values(finished_at=None)
        .returning(Experiment)
        .execution_options(populate_existing=True)
    ).one()
    if experiment.wandb is not None:
        _track_anew(session, experiment)
    for input_id in sorted({image.id for _, _, image in failed}):
        lock_input(session, input_id)
    wanted = [NewCell(cell.index, image, job.params, job.warnings) for cell, job, image in failed]
    made = insert_cell_jobs(session, experiment, wanted)
    session.execute(
        update(ExperimentCell),
        [
            {"id": cell.id, "job_id": job_id, "tries": cell.tries + 1}
            for (cell, _, _), job_id in zip(failed, made, strict=True)
        ],
    )
    return experiment, len(made)


def _track_anew(session: Session, experiment: Experiment) -> None:
    """Log to Weights & Biases what is not logged yet; runs that are there stay."""
    session.execute(
        update(Experiment)
        .where(Experiment.id == experiment.id)
        .values(wandb_status="pending", wandb_error=None, wandb_tries=0, wandb_next_try_at=db_now())
        .execution_options(synchronize_session=False)
    )
    session.refresh(experiment)


def delete_experiment(session: Session, owned: ColumnElement[bool]) -> bool:
    """Remove an experiment that has finished, and have the maintainer erase every job that it made.

    A job that another experiment reuses goes, too: its cell there stays, without it. False: there is no experiment.

    Raises:
        ConflictError: it has not finished.
    """
    experiment = _take_turn(session, owned)
    if experiment is None:
        return False
    if experiment.finished_at is None:
        raise ConflictError("the experiment has not finished; cancel it first, and wait for what runs")
    session.execute(
        update(Job)
        .where(Job.experiment_id == experiment.id)
        .values(experiment_id=None, delete_requested_at=func.coalesce(Job.delete_requested_at, db_now()))
        .execution_options(synchronize_session=False)
    )
    for table in (ExperimentCell, IdempotencyKey, WebhookDelivery):
        session.execute(delete(table).where(table.experiment_id == experiment.id))
    session.execute(delete(Experiment).where(Experiment.id == experiment.id))
    return True


def _take_turn(session: Session, owned: ColumnElement[bool]) -> Experiment | None:
    """The experiment, once nobody else is steering it."""
    experiment_id = session.scalars(select(Experiment.id).where(owned)).one_or_none()
    if experiment_id is None:
        return None
    session.execute(select(func.pg_advisory_xact_lock(experiment_id.int & (2**63 - 1))))
    return session.scalars(select(Experiment).where(owned).execution_options(populate_existing=True)).one_or_none()


def _steered(experiment: Experiment) -> Experiment:
    if experiment.finished_at is not None:
        raise ConflictError("the experiment has finished, so it can be neither paused nor resumed")
    return experiment


def _is_open(experiment: Experiment) -> ColumnElement[bool]:
    return and_(Job.experiment_id == experiment.id, Job.status.in_(OPEN_STATUSES))


def _lock_open_jobs(session: Session, experiment: Experiment) -> _Open:
    """None of them is claimed, given back or ended before this transaction is over."""
    rows = session.execute(
        select(Job.id, Job.status).where(_is_open(experiment)).order_by(Job.id).with_for_update()
    ).all()
    return _Open(
        queued=[job_id for job_id, status in rows if status == JobStatus.QUEUED],
        running=[job_id for job_id, status in rows if status == JobStatus.RUNNING],
    )


def _set_held(session: Session, experiment: Experiment, *, held: bool) -> Experiment:
    # Its last job may have ended a moment ago; finished, it is not paused.
    session.execute(
        update(Experiment)
        .where(Experiment.id == experiment.id, Experiment.finished_at.is_(None))
        .values(held=held)
        .execution_options(synchronize_session=False)
    )
    session.refresh(experiment)
    return experiment
