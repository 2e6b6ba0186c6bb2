"""Browsers that are signed in: a cookie stands for an API key until it ends, and a link signs in once.

Only SHA-256 hashes of cookies and links are stored. What a session may do is what its key may do now: a key that is
revoked or has expired takes its sessions with it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import datetime, timedelta
from uuid import UUID

from flask import Response, request
from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from api.services import services
from shared.database import db_now
from shared.errors import CsrfError
from shared.tables import ApiKey, BrowserSession, SignInLink

CSRF_HEADER = "X-CSRF-Token"

_LINK_TTL = timedelta(hours=1)
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
#: what browsers say of requests that this site's own pages make, or that were typed in.
_OWN_SITES = frozenset({"same-origin", "none"})


def start_session(session: Session, key_id: UUID) -> str:
    """Store a session of this key, and drop those that are over; returns its token, for the cookie."""
    session.execute(delete(BrowserSession).where(BrowserSession.expires_at < db_now()))
    token = secrets.token_urlsafe(32)
    lasts = timedelta(seconds=services().settings.session_ttl_s)
    session.add(
        BrowserSession(token_sha256=_digest(token), api_key_id=key_id, expires_at=func.clock_timestamp() + lasts)
    )
    return token


def end_session(session: Session, token: str) -> None:
    """Forget it; one that is not there is no error."""
    session.execute(delete(BrowserSession).where(BrowserSession.token_sha256 == _digest(token)))


def is_key_of(token: str) -> ColumnElement[bool]:
    """The key that stands behind a session, if that is not over."""
    return ApiKey.id == (
        select(BrowserSession.api_key_id)
        .where(BrowserSession.token_sha256 == _digest(token), BrowserSession.expires_at > db_now())
        .scalar_subquery()
    )


def make_link(session: Session, key_id: UUID) -> tuple[str, datetime]:
    """Store a link that signs in once, and drop those that are over; returns its token and when it ends."""
    session.execute(delete(SignInLink).where(SignInLink.expires_at < db_now()))
    token = secrets.token_urlsafe(32)
    row = SignInLink(token_sha256=_digest(token), api_key_id=key_id, expires_at=func.clock_timestamp() + _LINK_TTL)
    session.add(row)
    session.flush()
    session.refresh(row)
    return token, row.expires_at


def use_link(session: Session, token: str) -> UUID | None:
    """The id of the link's key; None: there is no such link any more. Of two at once only one gets it."""
    return session.scalars(
        delete(SignInLink)
        .where(SignInLink.token_sha256 == _digest(token), SignInLink.expires_at > db_now())
        .returning(SignInLink.api_key_id)
    ).one_or_none()


def csrf_token(token: str) -> str:
    """What this session's changes must carry. A page of another site cannot read it, nor make it from anything."""
    return hmac.new(token.encode(), b"csrf", hashlib.sha256).hexdigest()


def check_csrf(token: str) -> None:
    """Check that a request with a session's cookie comes from our own page.

    Raises:
        CsrfError: another site made it, or it changes something and does not carry the session's token.
    """
    # Another port of this host is the same site to cookies, but not to this header.
    if request.headers.get("Sec-Fetch-Site", "none") not in _OWN_SITES:
        raise CsrfError("this request comes from a page of another site")
    if request.method in _SAFE_METHODS:
        return
    if not hmac.compare_digest(request.headers.get(CSRF_HEADER, "").encode(), csrf_token(token).encode()):
        raise CsrfError(f"a change by a signed-in browser must carry its {CSRF_HEADER}; load the page again")


def read_cookie() -> str | None:
    return request.cookies.get(_cookie_name())


def set_cookie(response: Response, token: str) -> None:
    # Strict: not even a link on another site carries it.
    response.set_cookie(
        _cookie_name(),
        token,
        max_age=services().settings.session_ttl_s,
        secure=_is_https(),
        httponly=True,
        samesite="Strict",
    )


def clear_cookie(response: Response) -> None:
    response.delete_cookie(_cookie_name(), secure=_is_https(), httponly=True, samesite="Strict")


def _cookie_name() -> str:
    # The prefix has browsers refuse one that another host set. Source: RFC 6265bis, section 4.1.3.
    return "__Host-animatic_session" if _is_https() else "animatic_session"


def _is_https() -> bool:
    return services().settings.public_url.startswith("https://")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
