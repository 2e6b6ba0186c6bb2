"""Jobs, the images that they are made from, their attempts and events."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from shared.ids import new_id
from shared.states import AttemptOutcome, JobStatus
from shared.tables.base import CLOCK, Base, one_of


class Input(Base):
    """An accepted image, re-encoded, in the object store."""

    __tablename__ = "inputs"
    __table_args__ = (
        # What was made of the same image before.
        Index("inputs_tenant_sha256_idx", "tenant_id", "sha256"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), index=True)
    object_key: Mapped[str]
    #: of the stored bytes.
    sha256: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    width: Mapped[int]
    height: Mapped[int]
    media_type: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    #: its object is gone, or about to go.
    deleted_at: Mapped[datetime | None]


class Job(Base):
    """One request: one image and one set of parameters become one video."""

    __tablename__ = "jobs"
    __table_args__ = (
        one_of("status", JobStatus),
        CheckConstraint("(status = 'running') = (lease_token IS NOT NULL)", name="lease"),
        # The claim walks this index in its own order and stops at the first free row.
        Index(
            "jobs_claim_idx",
            "model",
            text("priority DESC"),
            "rank",
            "id",
            postgresql_where=text("status = 'queued' AND NOT held"),
        ),
        # Where a new job's rank starts: what was served last, and the tenant's own tail.
        Index("jobs_served_idx", "model", "priority", "rank", postgresql_where=text("attempt > 0")),
        Index(
            "jobs_tail_idx",
            "tenant_id",
            "model",
            "priority",
            "rank",
            postgresql_where=text("status = 'queued' AND experiment_id IS NULL"),
        ),
        # Whether an experiment has jobs that have not ended, and which.
        Index("jobs_experiment_idx", "experiment_id", "status", postgresql_where=text("experiment_id IS NOT NULL")),
        Index("jobs_lease_idx", "lease_expires_at", postgresql_where=text("status = 'running'")),
        Index("jobs_tenant_created_idx", "tenant_id", text("created_at DESC"), text("id DESC")),
        # What is over and still has files, for retention.
        Index("jobs_kept_idx", "finished_at", postgresql_where=text("result IS NOT NULL")),
        Index(
            "jobs_erase_idx",
            "delete_requested_at",
            postgresql_where=text("delete_requested_at IS NOT NULL AND erased_at IS NULL"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    status: Mapped[JobStatus] = mapped_column(Text, default=JobStatus.QUEUED)
    model: Mapped[str]
    #: `GenerationParams` as resolved at acceptance.
    params: Mapped[dict[str, Any]]
    warnings: Mapped[list[str]] = mapped_column(default=list)
    labels: Mapped[dict[str, str]] = mapped_column(default=dict)
    input_id: Mapped[UUID | None] = mapped_column(ForeignKey("inputs.id"), index=True)
    #: what its owner calls the image: a stranger's text.
    image_name: Mapped[str | None]
    #: in an experiment, the parameters that its grid varies; their values are in `params`.
    grid_axes: Mapped[list[str] | None] = mapped_column(JSONB(none_as_null=True))
    webhook_url: Mapped[str | None]
    #: the experiment that made it.
    experiment_id: Mapped[UUID | None] = mapped_column(ForeignKey("experiments.id"))

    #: higher goes first.
    priority: Mapped[int] = mapped_column(default=0)
    #: virtual finish time, fixed at insert: start-time fair queueing over tenants and their experiments.
    rank: Mapped[float] = mapped_column(default=0.0)
    #: not claimable until lifted.
    held: Mapped[bool] = mapped_column(default=False)
    #: not claimable before.
    run_after: Mapped[datetime | None]

    #: counts tries from 1 and only grows: the fencing token.
    attempt: Mapped[int] = mapped_column(default=0)
    lease_token: Mapped[UUID | None]
    lease_expires_at: Mapped[datetime | None]
    deadline_at: Mapped[datetime | None]
    worker_id: Mapped[UUID | None]
    phase: Mapped[str | None]
    step: Mapped[int] = mapped_column(default=0)
    total_steps: Mapped[int] = mapped_column(default=0)
    losses: Mapped[int] = mapped_column(default=0)
    transient_failures: Mapped[int] = mapped_column(default=0)

    #: `{video, frames, manifest, made_with, …}` of the winning attempt.
    result: Mapped[dict[str, Any] | None]
    #: `Measures` of the video; they stay when its files are gone.
    measures: Mapped[dict[str, Any] | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]

    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    updated_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    #: of the latest attempt.
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    #: the files are gone, or about to go: kept only so long.
    expired_at: Mapped[datetime | None]
    delete_requested_at: Mapped[datetime | None]
    #: the content is gone; the row is a tombstone.
    erased_at: Mapped[datetime | None]


class Attempt(Base):
    """One try of a worker at a job."""

    __tablename__ = "attempts"
    __table_args__ = (
        CheckConstraint("attempt >= 1", name="attempt"),
        one_of("outcome", AttemptOutcome),
        Index("attempts_ended_at_idx", "ended_at"),
        Index("attempts_stale_at_idx", "stale_at", postgresql_where=text("stale_at IS NOT NULL")),
        Index(
            "attempts_collect_idx",
            "ended_at",
            postgresql_where=text("collected_at IS NULL AND outcome <> 'succeeded'"),
        ),
    )

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    worker_id: Mapped[UUID]
    started_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    ended_at: Mapped[datetime | None]
    outcome: Mapped[AttemptOutcome | None] = mapped_column(Text)
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    #: when its worker came back with it, after its lease had run out and the job had been given away.
    stale_at: Mapped[datetime | None]
    #: whatever it left in the object store is gone.
    collected_at: Mapped[datetime | None]


class JobEvent(Base):
    """One row per transition, for people and audits."""

    __tablename__ = "job_events"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), index=True)
    #: the status that the job moved to.
    status: Mapped[JobStatus] = mapped_column(Text)
    attempt: Mapped[int]
    #: why: `accepted`, `claimed`, `worker_lost`, `retry`, `released`, an error's code…
    reason: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=CLOCK)
