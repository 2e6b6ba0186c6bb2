"""Accept: one transaction writes the job; from then on it is ours to finish."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.orm import Session

from shared.errors import InvalidInputError, NotFoundError
from shared.idempotency import find_key, take_key
from shared.ids import new_id, show_id
from shared.jobs.events import record_event
from shared.jobs.rank import next_rank
from shared.params import GenerationParams
from shared.quotas import Quotas, check_priority, check_queue, check_storage, hold_usage
from shared.states import JobStatus
from shared.tables import Input, Job


@dataclass(frozen=True)
class NewJob:
    """All that acceptance has found out about a request."""

    tenant_id: UUID
    model: str
    params: GenerationParams
    input: Input
    warnings: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    image_name: str | None = None
    priority: int = 0
    webhook_url: str | None = None


def find_by_idempotency_key(
    session: Session, tenant_id: UUID, key: str, fingerprint: bytes, ttl_s: float
) -> Job | None:
    """The job that was made under this key, if any.

    Raises:
        InvalidInputError: the key was used with another request, or its job was deleted.
    """
    known = find_key(session, tenant_id, key, fingerprint, ttl_s)
    if known is None:
        return None
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
    quotas: Quotas,
    *,
    idempotency: tuple[str, bytes] | None = None,
) -> Job:
    """Write the job, its input if it is new, its event and its idempotency key.

    Two requests that race under one key meet at the key's primary key: the later waits for the earlier's commit and
    then gets `ConflictError`, upon which the caller reads the winner's job.

    Args:
        quotas: of a tenant that has none of its own.

    Raises:
        InvalidInputError: the priority is above the tenant's.
        RateLimitedError: the tenant has too many queued jobs.
        QuotaExceededError: it has no room for more.
        NotFoundError: the input was erased a moment ago.
        ConflictError: another request took the idempotency key at the same moment.
    """
    usage = hold_usage(session, new.tenant_id, quotas)
    check_priority(usage, new.priority)
    check_queue(usage)
    stored = lock_input(session, new.input.id)
    check_storage(usage, adding_bytes=new.input.size_bytes if stored is None else 0)
    job = Job(
        id=new_id(),
        tenant_id=new.tenant_id,
        model=new.model,
        params=new.params.model_dump(mode="json"),
        warnings=new.warnings,
        labels=new.labels,
        input_id=new.input.id,
        image_name=new.image_name,
        webhook_url=new.webhook_url,
        priority=new.priority,
        rank=next_rank(new.tenant_id, new.model, new.priority),
    )
    if stored is None:
        session.add(new.input)
        session.flush()
    session.add(job)
    session.flush()
    record_event(session, job.id, JobStatus.QUEUED, attempt=0, reason="accepted")
    if idempotency is not None:
        take_key(session, new.tenant_id, *idempotency, job_id=job.id)
    session.refresh(job)
    return job


def lock_input(session: Session, input_id: UUID) -> Input | None:
    """The image's row, if there is one yet. Locked, since erasing the last job of an image erases the image.

    Raises:
        NotFoundError: it was erased a moment ago.
    """
    stored = session.get(Input, input_id, with_for_update={"read": True})
    if stored is not None and stored.deleted_at is not None:
        raise NotFoundError(f"there is no input {show_id('inp', input_id)}", field="input_id")
    return stored
