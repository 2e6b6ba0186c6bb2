"""What is said twice but must happen once: requests under an idempotency key, and webhooks."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.ids import new_id
from shared.states import DeliveryStatus
from shared.tables.base import CLOCK, Base, one_of


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
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK, index=True)


class WebhookDelivery(Base):
    """One message on its way to one URL. Its id and body never change."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        # One terminal transition, one message.
        UniqueConstraint("job_id"),
        UniqueConstraint("experiment_id", "round"),
        CheckConstraint("num_nonnulls(job_id, experiment_id) = 1", name="about"),
        one_of("status", DeliveryStatus),
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
    next_try_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    last_status_code: Mapped[int | None]
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    ended_at: Mapped[datetime | None]
