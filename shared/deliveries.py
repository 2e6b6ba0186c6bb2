"""Deliveries: a webhook message is a row, written in the transaction whose news it carries."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import BaseModel, SerializeAsAny
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.ids import new_id
from shared.tables import WebhookDelivery


class WebhookMessage(BaseModel):
    """The body of a webhook. Source: Standard Webhooks, "Payload structure"."""

    type: str
    timestamp: str
    data: SerializeAsAny[BaseModel]


def insert_delivery(
    session: Session,
    event_type: str,
    at: datetime,
    data: BaseModel,
    *,
    tenant_id: UUID,
    url: str,
    job_id: UUID | None = None,
    experiment_id: UUID | None = None,
    in_round: int | None = None,
) -> None:
    """
    Args:
        at: when it happened.
        job_id, experiment_id: what it is about, just one of them.
        in_round: of the experiment.
    """
    message = WebhookMessage(type=event_type, timestamp=at.isoformat(), data=data)
    session.execute(
        insert(WebhookDelivery).values(
            id=new_id(),
            tenant_id=tenant_id,
            job_id=job_id,
            experiment_id=experiment_id,
            round=in_round,
            event_type=event_type,
            url=url,
            host=urlsplit(url).netloc.lower(),
            body=message.model_dump_json().encode(),
        )
    )
