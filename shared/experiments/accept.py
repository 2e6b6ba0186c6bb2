"""Accept: one transaction writes the experiment and all its jobs; from then on they are ours to finish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import insert
from sqlalchemy.orm import Session

from shared.experiments.finish import finish_if_ended
from shared.experiments.grid import Axes, cell_id, count_points
from shared.experiments.reuse import content_of, find_results
from shared.idempotency import find_key, take_key
from shared.ids import new_id, show_id
from shared.jobs.accept import lock_input
from shared.jobs.events import record_events
from shared.jobs.rank import experiment_ranks
from shared.params import GenerationParams
from shared.quotas import Quotas, check_priority, check_queue, check_storage, hold_usage
from shared.states import JobStatus
from shared.tables import Experiment, ExperimentCell, Input, Job


@dataclass(frozen=True)
class Point:
    """One point of the grid, as resolved."""

    params: GenerationParams
    warnings: list[str]


@dataclass(frozen=True)
class NewExperiment:
    """All that acceptance has found out about a request."""

    tenant_id: UUID
    name: str
    model: str
    #: names and images.
    images: Sequence[tuple[str, Input]]
    grid: Axes
    base: Mapping[str, Any]
    #: in the order of `grid_points(grid)`.
    points: Sequence[Point]
    labels: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    priority: int = 0
    webhook_url: str | None = None
    wandb: dict[str, Any] | None = None


@dataclass(frozen=True)
class NewCell:
    """What the job of a cell is to be of."""

    index: int
    image: Input
    params: dict[str, Any]
    warnings: list[str]


def find_by_idempotency_key(
    session: Session, tenant_id: UUID, key: str, fingerprint: bytes, ttl_s: float
) -> Experiment | None:
    """The experiment that was made under this key, if any.

    Raises:
        InvalidInputError: the key was used with another request.
    """
    known = find_key(session, tenant_id, key, fingerprint, ttl_s)
    return None if known is None else session.get_one(Experiment, known.experiment_id)


def insert_experiment(
    session: Session,
    new: NewExperiment,
    quotas: Quotas,
    *,
    public_url: str,
    reuse_of_s: float | None = None,
    idempotency: tuple[str, bytes] | None = None,
) -> Experiment:
    """Write the experiment, the images that are new, its cells, a job for each, their events and the idempotency key.

    Args:
        quotas: of a tenant that has none of its own.
        reuse_of_s: how long a worker may have been silent for its results to be reused; None: reuse nothing.

    Raises:
        InvalidInputError: the priority is above the tenant's.
        RateLimitedError: the tenant would have too many queued jobs.
        QuotaExceededError: it has no room for more.
        NotFoundError: an image was erased a moment ago.
        ConflictError: another request took the idempotency key at the same moment.
    """
    cells = [
        NewCell(number * len(new.points) + place, image, point.params.model_dump(mode="json"), point.warnings)
        for number, (_, image) in enumerate(new.images)
        for place, point in enumerate(new.points)
    ]
    reused = {} if reuse_of_s is None else _find_results(session, new, cells, seen_s=reuse_of_s)
    wanted = [cell for cell in cells if cell.index not in reused]
    usage = hold_usage(session, new.tenant_id, quotas, adding=len(wanted))
    check_priority(usage, new.priority)
    check_queue(usage, adding=len(wanted))
    fresh = [image for _, image in new.images if lock_input(session, image.id) is None]
    check_storage(usage, adding_bytes=sum(image.size_bytes for image in fresh))
    session.add_all(fresh)
    experiment = Experiment(
        id=new_id(),
        tenant_id=new.tenant_id,
        name=new.name,
        model=new.model,
        images=[{"name": name, "input_id": show_id("inp", image.id)} for name, image in new.images],
        grid=dict(new.grid),
        base=dict(new.base),
        labels=new.labels,
        warnings=new.warnings,
        webhook_url=new.webhook_url,
        priority=new.priority,
        reuse=reuse_of_s is not None,
        wandb=new.wandb,
        wandb_status=None if new.wandb is None else "pending",
    )
    session.add(experiment)
    session.flush()
    made = dict(zip((cell.index for cell in wanted), insert_cell_jobs(session, experiment, wanted), strict=True))
    session.execute(
        insert(ExperimentCell),
        [
            {
                "id": cell_id(experiment.id, cell.index),
                "experiment_id": experiment.id,
                "index": cell.index,
                "job_id": made.get(cell.index) or reused[cell.index],
                "reused": cell.index in reused,
                "tries": int(cell.index in made),
            }
            for cell in cells
        ],
    )
    if idempotency is not None:
        take_key(session, new.tenant_id, *idempotency, experiment_id=experiment.id)
    if not wanted:
        finish_if_ended(session, experiment.id, public_url=public_url)
    session.refresh(experiment)
    return experiment


def _find_results(session: Session, new: NewExperiment, cells: Sequence[NewCell], *, seen_s: float) -> dict[int, UUID]:
    """The jobs that may stand for cells, by the cell's index."""
    results = find_results(
        session,
        new.tenant_id,
        new.model,
        {image.sha256 for _, image in new.images},
        [point.params.model_dump(mode="json") for point in new.points],
        seen_s=seen_s,
    )
    return {
        cell.index: results[content]
        for cell in cells
        if (content := content_of(cell.image.sha256, cell.params)) in results
    }


def insert_cell_jobs(session: Session, experiment: Experiment, wanted: Sequence[NewCell]) -> list[UUID]:
    """Write a job for each of these cells, in a few statements however many they are.

    They go to the queue in this order, behind what the experiment has there already.
    """
    if not wanted:
        return []
    start, step = experiment_ranks(session, experiment)
    points, axes = count_points(experiment.grid), list(experiment.grid)
    ids = [new_id() for _ in wanted]
    session.execute(
        insert(Job),
        [
            {
                "id": job_id,
                "tenant_id": experiment.tenant_id,
                "experiment_id": experiment.id,
                "model": experiment.model,
                "params": cell.params,
                "warnings": cell.warnings,
                "labels": experiment.labels,
                "input_id": cell.image.id,
                "image_name": experiment.images[cell.index // points]["name"],
                "grid_axes": axes,
                "priority": experiment.priority,
                "rank": start + step * number,
                "held": experiment.held,
            }
            for number, (job_id, cell) in enumerate(zip(ids, wanted, strict=True), start=1)
        ],
    )
    record_events(session, [(job_id, 0) for job_id in ids], JobStatus.QUEUED, reason="accepted")
    return ids
