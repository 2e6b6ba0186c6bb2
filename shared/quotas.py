"""What a tenant may have at once, and how far it may go before others. Both counts are Postgres' own."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shared.errors import InvalidInputError, QuotaExceededError, RateLimitedError
from shared.states import JobStatus
from shared.tables import Job, Tenant

#: so far from the quota of queued jobs nobody waits for anybody: no more are accepted at the same moment.
_NEAR = 256


@dataclass(frozen=True)
class Quotas:
    """The settings' values, for tenants that have none of their own."""

    queued_jobs_max: int
    #: None: none.
    storage_bytes_max: int | None = None
    priority_max: int = 100


@dataclass(frozen=True)
class Usage:
    """What a tenant has, and what it may have."""

    queued_jobs: int
    queued_jobs_max: int
    storage_bytes: int
    storage_bytes_max: int | None
    priority_max: int

    @property
    def is_near_quota(self) -> bool:
        return self.storage_bytes_max is not None or self.queued_jobs + _NEAR > self.queued_jobs_max


def read_usage(session: Session, tenant_id: UUID, quotas: Quotas) -> Usage:
    """Counts queued jobs no further than to their quota."""
    tenant = session.execute(
        select(Tenant.storage_bytes, Tenant.queued_jobs_max, Tenant.storage_bytes_max, Tenant.priority_max).where(
            Tenant.id == tenant_id
        )
    ).one()
    queued_jobs_max = quotas.queued_jobs_max if tenant.queued_jobs_max is None else tenant.queued_jobs_max
    queued = (
        select(Job.id)
        .where(Job.tenant_id == tenant_id, Job.status == JobStatus.QUEUED)
        .limit(queued_jobs_max)
        .subquery()
    )
    return Usage(
        queued_jobs=session.scalar(select(func.count()).select_from(queued)) or 0,
        queued_jobs_max=queued_jobs_max,
        storage_bytes=tenant.storage_bytes,
        storage_bytes_max=quotas.storage_bytes_max if tenant.storage_bytes_max is None else tenant.storage_bytes_max,
        priority_max=quotas.priority_max if tenant.priority_max is None else tenant.priority_max,
    )


def hold_usage(session: Session, tenant_id: UUID, quotas: Quotas, *, adding: int = 1) -> Usage:
    """As `read_usage`, to be true until the transaction ends: near a quota a tenant's requests pass one by one.

    By an advisory lock, since a lock of the tenant's row could meet the triggers that count there.

    Args:
        adding: jobs that are about to be queued; those who add many always take turns.
    """
    usage = read_usage(session, tenant_id, quotas)
    if usage.is_near_quota or adding > 1:
        session.execute(select(func.pg_advisory_xact_lock(tenant_id.int % 2**63)))
        usage = read_usage(session, tenant_id, quotas)
    return usage


def check_queue(usage: Usage, *, adding: int = 1) -> None:
    """
    Args:
        adding: jobs that are about to be queued.

    Raises:
        RateLimitedError: they would be more than may wait.
    """
    if usage.queued_jobs + adding > usage.queued_jobs_max:
        more = f", {usage.queued_jobs} do and {adding} more would" if adding > 1 else ""
        raise RateLimitedError(
            f"at most {usage.queued_jobs_max} jobs may wait at once{more}; try again when some have run"
        )


def check_storage(usage: Usage, *, adding_bytes: int = 0) -> None:
    """
    Args:
        adding_bytes: what is about to be stored; a job without a new image still needs room for its result.

    Raises:
        QuotaExceededError: there is no room.
    """
    most = usage.storage_bytes_max
    if most is not None and (usage.storage_bytes >= most or usage.storage_bytes + adding_bytes > most):
        raise QuotaExceededError(
            f"at most {most} bytes of images and results may be kept, {usage.storage_bytes} are; delete jobs first"
        )


def check_priority(usage: Usage, priority: int) -> None:
    """
    Raises:
        InvalidInputError: it is above the tenant's: a higher one goes before the jobs of all tenants.
    """
    if priority > usage.priority_max:
        raise InvalidInputError(
            f"priority must be at most {usage.priority_max} for this tenant, got {priority}", field="priority"
        )
