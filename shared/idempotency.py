"""Idempotency keys: a request that is repeated under its key gets what the first one made."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.database import db_now
from shared.errors import ConflictError, InvalidInputError
from shared.tables import IdempotencyKey


def find_key(session: Session, tenant_id: UUID, key: str, fingerprint: bytes, ttl_s: float) -> IdempotencyKey | None:
    """What was made under this key, if it was used within its time.

    Raises:
        InvalidInputError: the key was used with another request.
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
    return known


def take_key(
    session: Session,
    tenant_id: UUID,
    key: str,
    fingerprint: bytes,
    *,
    job_id: UUID | None = None,
    experiment_id: UUID | None = None,
) -> None:
    """Write down what is being made under the key.

    Two requests that race meet at its primary key: the later waits for the earlier's commit.

    Raises:
        ConflictError: another request took it at the same moment; read what that one made.
    """
    made = session.execute(
        insert(IdempotencyKey)
        .values(tenant_id=tenant_id, key=key, fingerprint=fingerprint, job_id=job_id, experiment_id=experiment_id)
        .on_conflict_do_nothing()
        .returning(IdempotencyKey.key)
    ).first()
    if made is None:
        raise ConflictError(f"another request holds Idempotency-Key {key[:80]!r}")
