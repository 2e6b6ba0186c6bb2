"""API keys: 256 random bits, of which only the SHA-256 is stored."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from flask import g, request
from sqlalchemy import or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.services import reading, services, transaction
from shared.database import db_now
from shared.errors import UnauthorizedError
from shared.ids import new_id
from shared.tables import ApiKey, Tenant
from shared.webhooks import new_secret

DEFAULT_TENANT = "default"

_PREFIX = "ak_"
_LAST_USED_EVERY = timedelta(minutes=1)


def create_key(session: Session, tenant_id: UUID, name: str, *, key: str | None = None) -> tuple[ApiKey, str]:
    """Store a key's hash; the key itself is returned this once.

    Args:
        key: an existing one to store; None: a new one is drawn.
    """
    key = key or f"{_PREFIX}{secrets.token_urlsafe(32)}"
    row = ApiKey(id=new_id(), tenant_id=tenant_id, name=name, key_sha256=_digest(key), hint=f"{key[:7]}…")
    session.add(row)
    session.flush()
    session.refresh(row)
    return row, key


def ensure_tenant(session: Session, name: str) -> UUID:
    """The tenant's id; made if it does not exist."""
    session.execute(insert(Tenant).values(id=new_id(), name=name, webhook_secret=new_secret()).on_conflict_do_nothing())
    return session.scalars(select(Tenant.id).where(Tenant.name == name)).one()


def authenticate() -> None:
    """Before each request under /v1: find the tenant behind the key.

    Raises:
        UnauthorizedError: there is no key, or it is unknown or revoked.
    """
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        raise UnauthorizedError("send an API key: `Authorization: Bearer ak_…`")
    with reading() as session:
        found = _find_key(session, key)
    if found is None and _is_bootstrap_key(key):
        with transaction() as session:
            found = _store_bootstrap_key(session, key)
    if found is None or found.is_revoked:
        raise UnauthorizedError("this API key is unknown or revoked")
    g.tenant_id = found.tenant_id
    if found.is_use_unwritten:
        with transaction() as session:
            session.execute(
                update(ApiKey)
                .where(ApiKey.id == found.id)
                .values(last_used_at=db_now())
                .execution_options(synchronize_session=False)
            )


class _FoundKey(NamedTuple):
    """What a request needs of its key: columns, since building an object for each request costs more than the query."""

    id: UUID
    tenant_id: UUID
    is_revoked: bool
    #: `last_used_at` is due again.
    is_use_unwritten: bool


def _find_key(session: Session, key: str) -> _FoundKey | None:
    row = session.execute(
        select(
            ApiKey.id,
            ApiKey.tenant_id,
            ApiKey.revoked_at.is_not(None),
            or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < db_now() - _LAST_USED_EVERY),
        ).where(ApiKey.key_sha256 == _digest(key))
    ).one_or_none()
    return None if row is None else _FoundKey(*row)


def _is_bootstrap_key(key: str) -> bool:
    bootstrap = services().settings.bootstrap_api_key
    return bootstrap is not None and hmac.compare_digest(bootstrap.get_secret_value().encode(), key.encode())


def _store_bootstrap_key(session: Session, key: str) -> _FoundKey | None:
    # Two first requests may meet here: the unique hash lets one through, and both then read it.
    session.execute(
        insert(ApiKey)
        .values(
            id=new_id(),
            tenant_id=ensure_tenant(session, DEFAULT_TENANT),
            name="bootstrap",
            key_sha256=_digest(key),
            hint=f"{key[:7]}…",
        )
        .on_conflict_do_nothing()
    )
    return _find_key(session, key)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
