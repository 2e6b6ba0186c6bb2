"""What routes work with: built once in `create_app`, reached through the current app."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from flask import current_app, g
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from api.decoding import ImageDecoder
from api.places import Places
from api.rate_limit import RateLimiter
from api.streams import JobStreams
from shared.catalogue import Catalogue
from shared.database import Sessions, translated_errors
from shared.doorbell import Doorbell
from shared.objects import ObjectStore
from shared.outbound import OutboundGuard
from shared.quotas import Quotas, Usage, read_usage
from shared.settings import Settings


@dataclass(frozen=True)
class Services:
    settings: Settings
    engine: Engine
    sessions: Sessions
    #: each statement for itself, so that a read needs no BEGIN and no COMMIT.
    readers: Sessions
    store: ObjectStore
    doorbell: Doorbell
    catalogue: Catalogue
    outbound: OutboundGuard
    streams: JobStreams
    places: Places
    decoder: ImageDecoder
    limiter: RateLimiter


def services() -> Services:
    """The current app's services."""
    found: Services = current_app.extensions["animatic"]
    return found


@contextmanager
def transaction() -> Iterator[Session]:
    """A unit of work that commits at the end.

    Raises:
        DatabaseError: Postgres is not answering; nothing, or at worst the whole unit, has been written.
    """
    with translated_errors(), services().sessions.begin() as session:
        yield session


@contextmanager
def reading() -> Iterator[Session]:
    """Statements that only read, or that may each stand alone.

    Raises:
        DatabaseError: Postgres is not answering.
    """
    with translated_errors(), services().readers() as session:
        yield session


def current_tenant() -> UUID:
    """Whose key the request carries; set by `api.auth`."""
    tenant: UUID = g.tenant_id
    return tenant


def quotas() -> Quotas:
    """The settings' quotas, for tenants that have none of their own."""
    settings = services().settings
    return Quotas(settings.queued_jobs_max, settings.storage_bytes_max, settings.priority_max)


def own_usage(session: Session) -> Usage:
    """What the request's tenant has, and what it may have."""
    return read_usage(session, current_tenant(), quotas())
