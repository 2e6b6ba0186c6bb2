"""Experiments and their cells."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.ids import new_id
from shared.tables.base import CLOCK, Base


class Experiment(Base):
    """A grid of jobs over images and parameter values."""

    __tablename__ = "experiments"
    __table_args__ = (
        Index("experiments_tenant_created_idx", "tenant_id", text("created_at DESC"), text("id DESC")),
        # What is to be logged to Weights & Biases.
        Index(
            "experiments_track_idx",
            "wandb_next_try_at",
            postgresql_where=text("wandb_status = 'pending' AND finished_at IS NOT NULL"),
        ),
        # Among how many a tenant's share is divided.
        Index("experiments_open_idx", "tenant_id", "model", "priority", postgresql_where=text("finished_at IS NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    model: Mapped[str]
    #: `[{name, input_id}]`, in the order of their indexes.
    images: Mapped[list[dict[str, Any]]]
    #: parameter → values. JSON, not JSONB: the order of the axes is kept.
    grid: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: what all cells have in common, with the seed if the grid has none.
    base: Mapped[dict[str, Any]]
    labels: Mapped[dict[str, str]] = mapped_column(default=dict)
    warnings: Mapped[list[str]] = mapped_column(default=list)
    webhook_url: Mapped[str | None]
    priority: Mapped[int] = mapped_column(default=0)
    #: whether results that were there already may stand for cells.
    reuse: Mapped[bool] = mapped_column(default=False)
    #: paused: its jobs are held.
    held: Mapped[bool] = mapped_column(default=False)
    #: how often its last job has ended; a retry makes it run, and end, again.
    rounds: Mapped[int] = mapped_column(default=0)

    #: where in Weights & Biases to log it: `{project, entity}`; none: nowhere.
    wandb: Mapped[dict[str, Any] | None]
    #: `pending`, `logged` or `failed`.
    wandb_status: Mapped[str | None]
    wandb_error: Mapped[str | None]
    wandb_urls: Mapped[list[str]] = mapped_column(default=list)
    #: of the runs that were logged.
    wandb_run_ids: Mapped[list[str]] = mapped_column(default=list, server_default=text("'[]'::jsonb"))
    #: of this logging; the fence of who is at it.
    wandb_tries: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    #: when to try next; while a try is under way, when to presume its maintainer dead.
    wandb_next_try_at: Mapped[datetime] = mapped_column(server_default=CLOCK)

    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    finished_at: Mapped[datetime | None]


class ExperimentCell(Base):
    """One point of the grid for one image, and the job that stands for it now."""

    __tablename__ = "experiment_cells"
    __table_args__ = (UniqueConstraint("experiment_id", "index"),)

    #: `cell_id(experiment_id, index)`.
    id: Mapped[UUID] = mapped_column(primary_key=True)
    experiment_id: Mapped[UUID] = mapped_column(ForeignKey("experiments.id"))
    #: image × number of grid points + grid point, the last axis fastest.
    index: Mapped[int]
    #: several cells may have one.
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), index=True)
    #: the job was there before the experiment.
    reused: Mapped[bool] = mapped_column(default=False)
    #: jobs that were made for it, one after the other.
    tries: Mapped[int] = mapped_column(default=1)
