"""The tables. Postgres is the truth about every job; docs/states.md draws how rows move."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared.ids import new_id
from shared.states import AttemptOutcome, DeliveryStatus, JobStatus


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "ck": "%(table_name)s_%(constraint_name)s_check",
        }
    )
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy reads it from the class
        str: Text,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(none_as_null=True),
        dict[str, str]: JSONB,
        list[str]: JSONB,
        list[dict[str, Any]]: JSONB,
        bytes: LargeBinary,
        float: Double,
    }


_CLOCK = func.clock_timestamp()
_ALL_SCOPES = text("""'["jobs:read", "jobs:write", "admin"]'::jsonb""")


def _one_of(column: str, values: type[JobStatus] | type[AttemptOutcome] | type[DeliveryStatus]) -> CheckConstraint:
    allowed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({allowed})", name=column)


class Tenant(Base):
    """The owner behind API keys. Every row has one, every query names one."""

    __tablename__ = "tenants"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(unique=True)
    #: `whsec_…`; signs this tenant's webhooks.
    webhook_secret: Mapped[str]
    #: the secret before, which signs too until then.
    previous_webhook_secret: Mapped[str | None]
    previous_webhook_secret_until: Mapped[datetime | None]
    #: what is kept for it in the object store, inputs and results, bytes. Triggers count: see migration 0002.
    storage_bytes: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    #: its own quotas; none: those of the settings.
    queued_jobs_max: Mapped[int | None]
    storage_bytes_max: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=_CLOCK)


class ApiKey(Base):
    """Only the SHA-256 of a key is kept: it has 256 random bits, so no slow hash is needed."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str]
    key_sha256: Mapped[bytes] = mapped_column(unique=True)
    #: the first characters, so that people can tell keys apart.
    hint: Mapped[str]
    #: of `Scope`.
    scopes: Mapped[list[str]] = mapped_column(server_default=_ALL_SCOPES)
    created_at: Mapped[datetime] = mapped_column(server_default=_CLOCK)
    #: none: it does not expire.
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class BrowserSession(Base):
    """A browser that is signed in: its cookie stands for an API key."""

    __tablename__ = "browser_sessions"

    #: of the cookie's value.
    token_sha256: Mapped[bytes] = mapped_column(primary_key=True)
    api_key_id: Mapped[UUID] = mapped_column(ForeignKey("api_keys.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=_CLOCK)
    expires_at: Mapped[datetime] = mapped_column(index=True)


class SignInLink(Base):
    """A link that signs a browser in, once."""

    __tablename__ = "sign_in_links"

    token_sha256: Mapped[bytes] = mapped_column(primary_key=True)
    api_key_id: Mapped[UUID] = mapped_column(ForeignKey("api_keys.id"))
    expires_at: Mapped[datetime] = mapped_column(index=True)


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
    created_at: Mapped[datetime] = mapped_column(server_default=_CLOCK)
    #: its object is gone, or about to go.
    deleted_at: Mapped[datetime | None]


class Job(Base):
    """One request: one image and one set of parameters become one video."""

    __tablename__ = "jobs"
    __table_args__ = (
        _one_of("status", JobStatus),
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

    created_at: Mapped[datetime] = mapped_column(server_default=_CLOCK)
    updated_at: Mapped[datetime] = mapped_column(server_default=_CLOCK)
    #: of the latest attempt.
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    #: the files are gone, or about to go: kept only so long.
    expired_at: Mapped[datetime | None]
    delete_requested_at: Mapped[datetime | None]
    #: the content is gone; the row is a tombstone.
    erased_at: Mapped[datetime | None]


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
    wandb_next_try_at: Mapped[datetime] = mapped_column(server_default=_CLOCK)

    created_at: Mapped[datetime] = mapped_column(server_default=_CLOCK)
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


class Attempt(Base):
    """One try of a worker at a job."""

    __tablename__ = "attempts"
    __table_args__ = (
        CheckConstraint("attempt >= 1", name="attempt"),
        _one_of("outcome", AttemptOutcome),
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
    started_at: Mapped[datetime] = mapped_column(server_default=_CLOCK)
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
    at: Mapped[datetime] = mapped_column(server_default=_CLOCK)


class IdempotencyKey(Base):
    """A request that was made under a key, so that its repetition gets the same job or experiment."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (CheckConstraint("num_nonnulls(job_id, experiment_id) = 1", name="made"),)

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    #: SHA-256 over the parsed fields and the images.
    fingerprint: Mapped[bytes]
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    experiment_id: Mapped[UUID | None] = mapped_column(ForeignKey("experiments.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(server_default=_CLOCK, index=True)


class WebhookDelivery(Base):
    """One message on its way to one URL. Its id and body never change."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        # One terminal transition, one message.
        UniqueConstraint("job_id"),
        UniqueConstraint("experiment_id", "round"),
        CheckConstraint("num_nonnulls(job_id, experiment_id) = 1", name="about"),
        _one_of("status", DeliveryStatus),
        Index("webhook_deliveries_ended_idx", "ended_at"),
        Index("webhook_deliveries_due_idx", "next_try_at", postgresql_where=text("status = 'pending'")),
    )

    #: the `webhook-id`.
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id"))
    experiment_id: Mapped[UUID | None] = mapped_column(ForeignKey("experiments.id"))
    #: of the experiment, which may finish more than once.
    round: Mapped[int | None]
    event_type: Mapped[str]
    url: Mapped[str]
    #: of the URL: one slow receiver must not delay the others.
    host: Mapped[str]
    #: stored as bytes and sent as stored.
    body: Mapped[bytes]
    status: Mapped[DeliveryStatus] = mapped_column(Text, default=DeliveryStatus.PENDING)
    tries: Mapped[int] = mapped_column(default=0)
    #: when to try next; while a try is under way, when to presume its maintainer dead.
    next_try_at: Mapped[datetime] = mapped_column(server_default=_CLOCK)
    last_status_code: Mapped[int | None]
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=_CLOCK)
    ended_at: Mapped[datetime | None]


class Worker(Base):
    """A worker process and its device, as last seen."""

    __tablename__ = "workers"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    hostname: Mapped[str]
    pid: Mapped[int]
    model: Mapped[str]
    #: of the weights, and the engine tier: what its results have in common.
    revision: Mapped[str | None]
    engine: Mapped[str | None]
    device: Mapped[str | None]
    #: the pipeline is loaded.
    ready: Mapped[bool] = mapped_column(default=False)
    #: what it took last, until that has ended; it may be finishing the one before, too.
    job_id: Mapped[UUID | None]
    #: how long its pipeline has worked since it was loaded.
    busy_s: Mapped[float] = mapped_column(server_default=text("0"))
    #: stops taking jobs; after this instant it releases those it has.
    drain_deadline_at: Mapped[datetime | None]
    started_at: Mapped[datetime] = mapped_column(server_default=_CLOCK)
    last_seen_at: Mapped[datetime] = mapped_column(server_default=_CLOCK)
