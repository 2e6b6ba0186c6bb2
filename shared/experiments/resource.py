"""The experiment and its cells as the outside sees them: in API answers and in webhook bodies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field
from sqlalchemy import Float, and_, case, cast, func, select
from sqlalchemy.orm import Session

from shared.experiments.grid import grid_points
from shared.ids import show_id
from shared.jobs.resource import JobResource, job_resource, progress_of
from shared.states import JobStatus
from shared.tables import Experiment, ExperimentCell, Job

ExperimentStatus = Literal["running", "paused", "finished"]


class ExperimentImageResource(BaseModel):
    index: int
    name: str
    input_id: str


class CellCounts(BaseModel):
    """Cells by the status of their job."""

    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    canceled: int


class WandbResource(BaseModel):
    """What became of the experiment in Weights & Biases."""

    project: str | None
    entity: str | None
    status: Literal["pending", "logged", "failed"]
    error: str | None
    urls: list[str]


class ExperimentLinks(BaseModel):
    self: str
    cells: str
    events: str


class ExperimentResource(BaseModel):
    """A grid of jobs over images and parameter values."""

    id: str = Field(examples=["exp_0192f0c1d7a27c3e8f10aa55bb66cc77"])
    object: Literal["experiment"] = "experiment"
    name: str
    status: ExperimentStatus
    model: str
    images: list[ExperimentImageResource]
    grid: dict[str, list[Any]] = Field(description="Values by parameter, in the order of the axes.")
    base: dict[str, Any] = Field(description="What all cells have in common, with the seed if the grid has none.")
    labels: dict[str, str]
    priority: int
    reuse: bool
    warnings: list[str]
    webhook_url: str | None
    counts: CellCounts
    progress: float = Field(ge=0, le=1, description="Share of the work that is done.")
    eta_s: float | None = Field(
        description="Estimate of the time left, s: what cells took so far, times those left, over those that run at "
        "once; none: nothing to go by, paused or finished."
    )
    wandb: WandbResource | None
    created_at: datetime
    finished_at: datetime | None
    links: ExperimentLinks


class CellResource(BaseModel):
    """One point of the grid for one image."""

    id: str = Field(examples=["cell_0192f0c1d7a25c3e8f10aa55bb66cc77"])
    object: Literal["experiment_cell"] = "experiment_cell"
    index: int = Field(description="image_index × number of grid points + grid point, the last axis fastest.")
    image_index: int
    grid_values: dict[str, Any] = Field(description="Value by parameter of the grid.")
    status: JobStatus = Field(description="Of its job.")
    reused: bool = Field(description="Its job was there before the experiment.")
    tries: int = Field(description="Jobs that were made for it.")
    job: JobResource | None = Field(description="None: the job was deleted.")


def status_of(experiment: Experiment) -> ExperimentStatus:
    if experiment.finished_at is not None:
        return "finished"
    return "paused" if experiment.held else "running"


@dataclass(frozen=True)
class Tally:
    """How far an experiment's cells are."""

    by_status: dict[str, int]
    #: how long the jobs that it made and that succeeded took; None: there is none.
    mean_s: float | None
    #: how many cells' worth the running ones have done.
    under_way: float


def tally_cells(session: Session, experiments: Sequence[Experiment]) -> dict[UUID, Tally]:
    """Two index scans: one over the cells, one over those that run."""
    ids = [experiment.id for experiment in experiments]
    took_s = cast(func.extract("epoch", Job.finished_at - Job.started_at), Float)
    made_here = and_(Job.status == JobStatus.SUCCEEDED, ~ExperimentCell.reused)
    by_status: dict[UUID, dict[str, int]] = {experiment_id: {} for experiment_id in ids}
    mean_s: dict[UUID, float | None] = {}
    for experiment_id, status, count, mean in session.execute(
        select(ExperimentCell.experiment_id, Job.status, func.count(), func.avg(case((made_here, took_s))))
        .join(Job, Job.id == ExperimentCell.job_id)
        .where(ExperimentCell.experiment_id.in_(ids))
        .group_by(ExperimentCell.experiment_id, Job.status)
    ):
        by_status[experiment_id][status] = count
        if status == JobStatus.SUCCEEDED:
            mean_s[experiment_id] = mean
    under_way: dict[UUID | None, float] = defaultdict(float)
    for experiment_id, phase, step, total_steps in session.execute(
        select(Job.experiment_id, Job.phase, Job.step, Job.total_steps).where(
            Job.experiment_id.in_(ids), Job.status == JobStatus.RUNNING
        )
    ):
        under_way[experiment_id] += progress_of(phase, step, total_steps)
    return {
        experiment_id: Tally(by_status[experiment_id], mean_s.get(experiment_id), under_way[experiment_id])
        for experiment_id in ids
    }


def experiment_resource(experiment: Experiment, tally: Tally, public_url: str) -> ExperimentResource:
    """Build the resource.

    Args:
        public_url: `ANIMATIC_PUBLIC_URL`.
    """
    counts = CellCounts(
        total=sum(tally.by_status.values()), **{status: tally.by_status.get(status, 0) for status in JobStatus}
    )
    left = max(0.0, counts.queued + counts.running - tally.under_way)
    status = status_of(experiment)
    eta_s = None
    if tally.mean_s is not None and status == "running":
        eta_s = round(left * tally.mean_s / max(1, counts.running), 1)
    base = f"{public_url.rstrip('/')}/v1/experiments/{show_id('exp', experiment.id)}"
    return ExperimentResource(
        id=show_id("exp", experiment.id),
        name=experiment.name,
        status=status,
        model=experiment.model,
        images=[
            ExperimentImageResource(index=index, name=image["name"], input_id=image["input_id"])
            for index, image in enumerate(experiment.images)
        ],
        grid=experiment.grid,
        base=experiment.base,
        labels=experiment.labels,
        priority=experiment.priority,
        reuse=experiment.reuse,
        warnings=experiment.warnings,
        webhook_url=experiment.webhook_url,
        counts=counts,
        progress=round(1 - left / counts.total, 4),
        eta_s=eta_s,
        wandb=_wandb(experiment),
        created_at=experiment.created_at,
        finished_at=experiment.finished_at,
        links=ExperimentLinks(self=base, cells=f"{base}/cells", events=f"{base}/events"),
    )


def cell_resources(
    experiment: Experiment, rows: Sequence[tuple[ExperimentCell, Job]], public_url: str
) -> list[CellResource]:
    """Build the resources of a page of cells."""
    points = grid_points(experiment.grid)
    return [
        CellResource(
            id=show_id("cell", cell.id),
            index=cell.index,
            image_index=cell.index // len(points),
            grid_values=points[cell.index % len(points)],
            status=JobStatus(job.status),
            reused=cell.reused,
            tries=cell.tries,
            job=job_resource(job, public_url) if job.delete_requested_at is None else None,
        )
        for cell, job in rows
    ]


def _wandb(experiment: Experiment) -> WandbResource | None:
    if experiment.wandb is None:
        return None
    return WandbResource.model_validate(
        {
            "project": experiment.wandb.get("project"),
            "entity": experiment.wandb.get("entity"),
            "status": experiment.wandb_status,
            "error": experiment.wandb_error,
            "urls": experiment.wandb_urls,
        }
    )
