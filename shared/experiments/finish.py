"""Finish: who ends an experiment's last job also ends the experiment, just once."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from shared.database import db_now
from shared.deliveries import insert_delivery
from shared.experiments.resource import experiment_resource, tally_cells
from shared.states import TERMINAL_STATUSES, JobStatus
from shared.tables import Experiment, Job

#: a list of values, not a negation: it can be looked up in the index.
OPEN_STATUSES = sorted(set(JobStatus) - TERMINAL_STATUSES)


def finish_if_ended(session: Session, experiment_id: UUID, *, public_url: str) -> Experiment | None:
    """Mark an experiment as finished and write its webhook, if no job of it is open and nobody did so before.

    The row's lock makes two last jobs that end at once take turns: the second sees what the first has committed.

    Returns:
        The experiment, if this was its end.
    """
    experiment = session.scalars(
        select(Experiment)
        .where(Experiment.id == experiment_id, Experiment.finished_at.is_(None))
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if experiment is None:
        return None
    still_open = select(Job.id).where(Job.experiment_id == experiment_id, Job.status.in_(OPEN_STATUSES)).limit(1)
    if session.scalars(still_open).first() is not None:
        return None
    experiment = session.scalars(
        update(Experiment)
        .where(Experiment.id == experiment_id)
        .values(finished_at=db_now(), held=False, rounds=Experiment.rounds + 1)
        .returning(Experiment)
        .execution_options(populate_existing=True)
    ).one()
    if experiment.webhook_url is not None and experiment.finished_at is not None:
        insert_delivery(
            session,
            "experiment.finished",
            experiment.finished_at,
            experiment_resource(experiment, tally_cells(session, [experiment])[experiment_id], public_url),
            tenant_id=experiment.tenant_id,
            url=experiment.webhook_url,
            experiment_id=experiment_id,
            in_round=experiment.rounds,
        )
    return experiment
