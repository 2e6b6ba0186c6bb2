"""Who may do what: tenants, their keys, and the browsers that are signed in."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.ids import new_id
from shared.tables.base import CLOCK, Base

_ALL_SCOPES = text("""'["jobs:read", "jobs:write", "admin"]'::jsonb""")


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
    priority_max: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)


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
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
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
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    expires_at: Mapped[datetime] = mapped_column(index=True)


class SignInLink(Base):
    """A link that signs a browser in, once."""

    __tablename__ = "sign_in_links"

    token_sha256: Mapped[bytes] = mapped_column(primary_key=True)
    api_key_id: Mapped[UUID] = mapped_column(ForeignKey("api_keys.id"))
    expires_at: Mapped[datetime] = mapped_column(index=True)
