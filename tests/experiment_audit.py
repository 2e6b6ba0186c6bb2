"""The judgement over experiments: cells complete and right, none succeeded twice, one message for each finishing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.database import Sessions
from shared.experiments.grid import cell_id, grid_points
from shared.ids import parse_id, show_id
from shared.states import DeliveryStatus, JobStatus
from shared.tables import Experiment, ExperimentCell, Input, Job, WebhookDelivery


def check_experiments(sessions: Sessions, accepted: set[str], *, deliveries_ended: bool) -> list[str]:
    """Every promise that is broken, as one sentence each.

    Args:
        accepted: ids of all 202s.
    """
    with sessions() as session:
        experiments = session.scalars(select(Experiment)).all()
        missing = accepted - {show_id("exp", experiment.id) for experiment in experiments}
        broken = [f"{shown}: accepted, and not in the database" for shown in missing]
        for experiment in experiments:
            problems = [
                *_check_cells(session, experiment),
                *_check_deliveries(session, experiment, ended=deliveries_ended),
            ]
            broken += [f"{show_id('exp', experiment.id)}: {problem}" for problem in problems]
    return broken


def _check_cells(session: Session, experiment: Experiment) -> Iterator[str]:
    points = grid_points(experiment.grid)
    rows: Sequence[tuple[ExperimentCell, Job]] = session.execute(
        select(ExperimentCell, Job)
        .join(Job, Job.id == ExperimentCell.job_id)
        .where(ExperimentCell.experiment_id == experiment.id)
        .order_by(ExperimentCell.index)
    ).all()  # type: ignore[assignment]
    if [cell.index for cell, _ in rows] != list(range(len(points) * len(experiment.images))):
        yield f"its cells are {[cell.index for cell, _ in rows]}"
    if experiment.finished_at is None:
        yield "not finished"
    images = [parse_id("inp", image["input_id"]) for image in experiment.images]
    sha256 = {image.id: image.sha256 for image in session.scalars(select(Input))}
    for cell, job in rows:
        name = f"its cell {cell.index}"
        if cell.id != cell_id(experiment.id, cell.index):
            yield f"{name} has the id {cell.id}"
        if job.tenant_id != experiment.tenant_id:
            yield f"{name} has a job of another tenant"
        if (job.experiment_id == experiment.id) == cell.reused:
            yield f"{name} has a job of {job.experiment_id}, reused: {cell.reused}"
        if job.erased_at is not None:
            continue
        wanted = {**experiment.base, **points[cell.index % len(points)]}
        if {parameter: job.params[parameter] for parameter in wanted} != wanted:
            yield f"{name} has a job of {job.params}"
        if job.input_id is not None and sha256[job.input_id] != sha256[images[cell.index // len(points)]]:
            yield f"{name} has a job of another image"
    own = Counter(session.scalars(select(Job.status).where(Job.experiment_id == experiment.id)))
    shown = Counter(job.status for cell, job in rows if not cell.reused)
    if set(own - shown) - {JobStatus.FAILED}:
        yield f"its jobs ended as {own}, those of its cells as {shown}"
    if own.total() != sum(cell.tries for cell, _ in rows):
        yield f"it has made {own.total()} jobs in {sum(cell.tries for cell, _ in rows)} tries"


def _check_deliveries(session: Session, experiment: Experiment, *, ended: bool) -> Iterator[str]:
    deliveries = session.scalars(
        select(WebhookDelivery).where(WebhookDelivery.experiment_id == experiment.id).order_by(WebhookDelivery.round)
    ).all()
    expected = list(range(1, experiment.rounds + 1)) if experiment.webhook_url is not None else []
    if [delivery.round for delivery in deliveries] != expected:
        yield f"it finished {experiment.rounds} times, and its messages are of {[row.round for row in deliveries]}"
    for delivery in deliveries:
        message = json.loads(delivery.body)
        if (delivery.event_type, message["data"]["status"]) != ("experiment.finished", "finished"):
            yield f"its message is {delivery.event_type} of {message['data']['status']}"
        counts = message["data"]["counts"]
        if counts["queued"] or counts["running"]:
            yield f"its message counts {counts}"
        if ended and delivery.status == DeliveryStatus.PENDING:
            yield f"its message is still to be delivered, after {delivery.tries} tries"
