"""Webhook deliveries, and the secret that signs them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from api.schemas.lists import Page
from shared.states import DeliveryStatus


class DeliveryPath(BaseModel):
    delivery_id: str = Field(max_length=100)


class DeliveryResource(BaseModel):
    id: str = Field(description="The `webhook-id` of the message.")
    object: Literal["delivery"] = "delivery"
    job_id: str | None = Field(description="What it is about: this job, or else")
    experiment_id: str | None = Field(description="this experiment.")
    event_type: str
    url: str
    status: DeliveryStatus
    tries: int
    next_try_at: datetime | None
    last_status_code: int | None
    last_error: str | None
    created_at: datetime
    ended_at: datetime | None


class DeliveryPage(Page[DeliveryResource]):
    """A page of webhook deliveries."""


class WebhookSecretResource(BaseModel):
    object: Literal["webhook_secret"] = "webhook_secret"
    secret: str = Field(description="`whsec_…`, for the `webhook-signature` check of Standard Webhooks.")
    previous_secret_until: datetime | None = Field(description="Until then the secret before signs, too.")
