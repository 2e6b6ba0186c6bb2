"""Accept: one transaction writes the job; from then on it is ours to finish."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.database import db_now
from shared.errors import ConflictError, InvalidInputError, NotFoundError
from shared.ids import new_id, show_id
from shared.jobs.events import record_event
from shared.params import GenerationParams
from shared.quotas import Quotas, check_queue, check_storage, hold_usage
from shared.states import JobStatus
from shared.tables import IdempotencyKey, Input, Job


@dataclass(frozen=True)
class NewJob:
    """All that acceptance has found out about a request."""

    tenant_id: UUID
    model: str
    params: GenerationParams
    input: Input
    warnings: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    priority: int = 0
    webhook_url: str | None = None


def find_by_idempotency_key(
    session: Session, tenant_id: UUID, key: str, fingerprint: bytes, ttl_s: float
) -> Job | None:
    """The job that was made under this key, if any.

    Raises:
        InvalidInputError: the key was used with another request, or its job was deleted.
    """
    known = session.get(IdempotencyKey, (tenant_id, key))
    if known is None:
        return None
    expired = session.scalar(select(known.created_at < db_now() - timedelta(seconds=ttl_s)))
    if expired:
        session.execute(
            delete(IdempotencyKey).where(
                IdempotencyKey.tenant_id == tenant_id,
                IdempotencyKey.key == key,
                IdempotencyKey.created_at == known.created_at,
            )
        )
        return None
    if known.fingerprint != fingerprint:
        raise InvalidInputError(
            f"Idempotency-Key {key[:80]!r} was used with another request; use a new key for a new request",
            field="Idempotency-Key",
        )
    job = session.get_one(Job, known.job_id)
    if job.delete_requested_at is not None:
        raise InvalidInputError(
            f"the job made under Idempotency-Key {key[:80]!r} was deleted; use a new key for a new request",
            field="Idempotency-Key",
        )
    return job


def insert_job(
    session: Session,
    new: NewJob,
    *,
    queued_jobs_max: int,
    storage_bytes_max: int | None = None,
    idempotency: tuple[str, bytes] | None = None,
) -> Job:
    """Write the job, its input if it is new, its event and its idempotency key.

    Two requests that race under one key meet at the key's primary key: the later waits for the earlier's commit and
    then gets `ConflictError`, upon which the caller reads the winner's job.

    Args:
        queued_jobs_max, storage_bytes_max: quotas of a tenant that has none of its own.

    Raises:
        RateLimitedError: the tenant has too many queued jobs.
        QuotaExceededError: it has no room for more.
        NotFoundError: the input was erased a moment ago.
        ConflictError: another request took the idempotency key at the same moment.
    """
    usage = hold_usage(session, new.tenant_id, Quotas(queued_jobs_max, storage_bytes_max))
    check_queue(usage)
    # Locked, since erasing the last job of an image erases the image.
    stored = session.get(Input, new.input.id, with_for_update={"read": True})
    check_storage(usage, adding_bytes=new.input.size_bytes if stored is None else 0)
    job = Job(
        id=new_id(),
        tenant_id=new.tenant_id,
        model=new.model,
        params=new.params.model_dump(mode="json"),
        warnings=new.warnings,
        labels=new.labels,
        input_id=new.input.id,
        webhook_url=new.webhook_url,
        priority=new.priority,
        rank=_next_rank(new),
    )
    if stored is None:
        session.add(new.input)
        session.flush()
    elif stored.deleted_at is not None:
        raise NotFoundError(f"there is no input {show_id('inp', new.input.id)}", field="input_id")
    session.add(job)
    session.flush()
    record_event(session, job.id, JobStatus.QUEUED, attempt=0, reason="accepted")
    if idempotency is not None:
        key, fingerprint = idempotency
        made = session.execute(
            insert(IdempotencyKey)
            .values(tenant_id=new.tenant_id, key=key, fingerprint=fingerprint, job_id=job.id)
            .on_conflict_do_nothing()
            .returning(IdempotencyKey.job_id)
        ).first()
        if made is None:
            raise ConflictError(f"another request holds Idempotency-Key {key[:80]!r}")
    session.refresh(job)
    return job


def _next_rank(new: NewJob) -> object:
    """Start-time fair queueing with unit cost, within one priority: behind the tenant's own tail, not everyone else's.

    Virtual time is the highest rank that was served: it goes on while jobs that are held or delayed stand still.

    Source: Goyal, Vin, Cheng 1996, "Start-time Fair Queueing".
    """
    peers = (Job.model == new.model, Job.priority == new.priority)
    served = select(func.max(Job.rank)).where(*peers, Job.attempt > 0).scalar_subquery()
    tail = (
        select(func.max(Job.rank))
        .where(*peers, Job.tenant_id == new.tenant_id, Job.status == JobStatus.QUEUED)
        .scalar_subquery()
    )
    return func.greatest(func.coalesce(served, 0), func.coalesce(tail, 0)) + 1
