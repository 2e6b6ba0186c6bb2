"""Rank: the fair order of jobs within one model and one priority, fixed when they enter the queue.

Start-time fair queueing with unit cost. A tenant's single jobs are one flow: each goes behind the tenant's own tail,
not behind everyone else's. Each of its experiments is a flow of its own, so that a thousand cells do not delay the
tenant's single jobs or a small experiment. So that nobody gains by splitting work into many experiments, the cells of
the nth that is open are n apart: n of them together get 1 + 1/2 + … + 1/n of a share, and n with one cell each stand as
far apart as n single jobs.

Virtual time is the highest rank that was served: it goes on while jobs that are held or delayed stand still.

Source: Goyal, Vin, Cheng 1996, "Start-time Fair Queueing".
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import ScalarSelect, func, select
from sqlalchemy.orm import Session

from shared.states import JobStatus
from shared.tables import Experiment, Job


def next_rank(tenant_id: UUID, model: str, priority: int) -> object:
    """Of a single job, as an expression."""
    tail = (
        select(func.max(Job.rank))
        .where(
            Job.model == model,
            Job.priority == priority,
            Job.tenant_id == tenant_id,
            Job.status == JobStatus.QUEUED,
            Job.experiment_id.is_(None),
        )
        .scalar_subquery()
    )
    return func.greatest(func.coalesce(_virtual_time(model, priority), 0), func.coalesce(tail, 0)) + 1


def experiment_ranks(session: Session, experiment: Experiment) -> tuple[float, float]:
    """Where the next cells of an experiment begin, and how far apart they are: `start + step`, `start + 2 × step`, …

    The experiment's row need not be written yet.
    """
    tail = (
        select(func.max(Job.rank))
        .where(Job.experiment_id == experiment.id, Job.status == JobStatus.QUEUED, ~Job.held)
        .scalar_subquery()
    )
    others = (
        select(func.count())
        .where(
            Experiment.tenant_id == experiment.tenant_id,
            Experiment.model == experiment.model,
            Experiment.priority == experiment.priority,
            Experiment.finished_at.is_(None),
            ~Experiment.held,
            Experiment.id != experiment.id,
        )
        .scalar_subquery()
    )
    served = _virtual_time(experiment.model, experiment.priority)
    start, count = session.execute(
        select(func.greatest(func.coalesce(served, 0), func.coalesce(tail, 0)), others)
    ).one()
    return float(start), count + 1.0


def _virtual_time(model: str, priority: int) -> ScalarSelect[float]:
    return (
        select(func.max(Job.rank))
        .where(Job.model == model, Job.priority == priority, Job.attempt > 0)
        .scalar_subquery()
    )
