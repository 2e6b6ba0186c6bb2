"""API keys: 256 random bits, of which only the SHA-256 is stored; and what each may do."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import NamedTuple, TypeVar
from uuid import UUID

from flask import Flask, current_app, g, request
from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.services import reading, services, transaction
from api.sessions import check_csrf, is_key_of, read_cookie
from shared.database import db_now
from shared.errors import ForbiddenError, RateLimitedError, UnauthorizedError
from shared.ids import new_id
from shared.scopes import ALL_SCOPES, Scope, allows
from shared.tables import ApiKey, Tenant
from shared.webhooks import new_secret

DEFAULT_TENANT = "default"

_PREFIX = "ak_"
_LAST_USED_EVERY = timedelta(minutes=1)
_REFUSED = "this API key is unknown, expired or revoked"

View = TypeVar("View", bound=Callable[..., object])


def needs(scope: Scope) -> Callable[[View], View]:
    """Says which scope a route needs. `create_app` refuses a route under /v1 that does not say."""

    def mark(view: View) -> View:
        view.needed_scope = scope  # type: ignore[attr-defined]
        return view

    return mark


def needed_scope(app: Flask, endpoint: str | None) -> Scope | None:
    """What the route behind this endpoint needs; None: it is open, or there is none."""
    return getattr(app.view_functions.get(endpoint or ""), "needed_scope", None)


def require_scopes(app: Flask) -> None:
    """Check that no route under /v1 is open by mistake.

    Raises:
        RuntimeError: one does not say which scope it needs.
    """
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith("/v1/") and needed_scope(app, rule.endpoint) is None:
            raise RuntimeError(f"{rule.rule} needs a scope: put @needs(…) below its route")


def create_key(
    session: Session,
    tenant_id: UUID,
    name: str,
    *,
    scopes: Collection[Scope] = ALL_SCOPES,
    expires_in_s: float | None = None,
    key: str | None = None,
) -> tuple[ApiKey, str]:
    """Store a key's hash; the key itself is returned this once.

    Args:
        expires_in_s: from now, by the database's clock; None: never.
        key: an existing one to store; None: a new one is drawn.
    """
    key = key or f"{_PREFIX}{secrets.token_urlsafe(32)}"
    row = ApiKey(
        id=new_id(),
        tenant_id=tenant_id,
        name=name,
        key_sha256=_digest(key),
        hint=f"{key[:7]}…",
        scopes=[scope for scope in Scope if scope in scopes],
    )
    if expires_in_s is not None:
        row.expires_at = func.clock_timestamp() + timedelta(seconds=expires_in_s)
    session.add(row)
    session.flush()
    session.refresh(row)
    return row, key


def ensure_tenant(session: Session, name: str) -> UUID:
    """The tenant's id; made if it does not exist."""
    session.execute(insert(Tenant).values(id=new_id(), name=name, webhook_secret=new_secret()).on_conflict_do_nothing())
    return session.scalars(select(Tenant.id).where(Tenant.name == name)).one()


def authenticate() -> None:
    """Find the tenant behind the request's key, or behind its session's.

    Raises:
        UnauthorizedError: there is no key, or it is unknown, expired or revoked.
        CsrfError: a session's request does not come from our own page.
    """
    header, cookie = request.headers.get("Authorization"), read_cookie()
    g.is_by_cookie = header is None and cookie is not None
    if header is None and cookie is not None:
        found = _find_session(cookie)
        check_csrf(cookie)
    else:
        scheme, _, key = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise UnauthorizedError("send an API key: `Authorization: Bearer ak_…`")
        found = find_key(key.strip())
    g.tenant_id, g.key_id, g.scopes = found.tenant_id, found.id, found.scopes
    if found.is_use_unwritten:
        with transaction() as session:
            session.execute(
                update(ApiKey)
                .where(ApiKey.id == found.id)
                .values(last_used_at=db_now())
                .execution_options(synchronize_session=False)
            )


def find_key(key: str) -> FoundKey:
    """What stands behind a key that was sent.

    Raises:
        UnauthorizedError: it is unknown, expired or revoked.
    """
    is_key = ApiKey.key_sha256 == _digest(key)
    with reading() as session:
        found = _find(session, is_key)
    if found is None and _is_bootstrap_key(key):
        with transaction() as session:
            _store_bootstrap_key(session, key)
            found = _find(session, is_key)
    if found is None:
        raise UnauthorizedError(_REFUSED)
    return found


def _find_session(token: str) -> FoundKey:
    with reading() as session:
        found = _find(session, is_key_of(token))
    if found is None:
        raise UnauthorizedError("this sign-in has ended; sign in again")
    return found


def require_rate(cost: int = 1) -> None:
    """Count the request against its key's limit; a costly one again, by what it is worth more.

    Raises:
        RateLimitedError: it is one too many.
    """
    if not cost:
        return
    standing = services().limiter.hit(g.key_id, cost=cost)
    g.standing = standing
    if standing is not None and not standing.is_allowed:
        raise RateLimitedError(
            f"at most {standing.limit} requests a minute with one API key; try again in {standing.reset_s} s",
            retry_after_s=standing.reset_s,
        )


def authorize() -> None:
    """Check the scope before anything is looked up, so that the answer is the same whatever is there.

    Raises:
        ForbiddenError: the key lacks the route's scope.
    """
    scope = needed_scope(current_app, request.endpoint)
    if scope is not None and not allows(g.scopes, scope):
        raise ForbiddenError(f"this API key lacks the scope {scope}; it has {' '.join(g.scopes) or 'none'}")


def check_still_valid(session: Session) -> None:
    """For requests that last: a key that was revoked meanwhile sees nothing more.

    Raises:
        UnauthorizedError: it has expired or was revoked.
    """
    if session.scalars(select(ApiKey.id).where(ApiKey.id == g.key_id, _is_valid())).one_or_none() is None:
        raise UnauthorizedError(_REFUSED)


def _is_valid() -> ColumnElement[bool]:
    return and_(ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > db_now()))


class FoundKey(NamedTuple):
    """What a request needs of its key: columns, since building an object for each request costs more than the query."""

    id: UUID
    tenant_id: UUID
    scopes: list[str]
    #: `last_used_at` is due again.
    is_use_unwritten: bool


def _find(session: Session, condition: ColumnElement[bool]) -> FoundKey | None:
    row = session.execute(
        select(
            ApiKey.id,
            ApiKey.tenant_id,
            ApiKey.scopes,
            or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < db_now() - _LAST_USED_EVERY),
        ).where(condition, _is_valid())
    ).one_or_none()
    return None if row is None else FoundKey(*row)


def _is_bootstrap_key(key: str) -> bool:
    bootstrap = services().settings.bootstrap_api_key
    return bootstrap is not None and hmac.compare_digest(bootstrap.get_secret_value().encode(), key.encode())


def _store_bootstrap_key(session: Session, key: str) -> None:
    # Two first requests may meet here: the unique hash lets one through, and both then read it. A revoked one stays so.
    session.execute(
        insert(ApiKey)
        .values(
            id=new_id(),
            tenant_id=ensure_tenant(session, DEFAULT_TENANT),
            name="bootstrap",
            key_sha256=_digest(key),
            hint=f"{key[:7]}…",
            scopes=list(ALL_SCOPES),
        )
        .on_conflict_do_nothing()
    )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
