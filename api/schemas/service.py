"""The service itself: usage and health."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class UsageResource(BaseModel):
    object: Literal["usage"] = "usage"
    queued_jobs: int = Field(description="Jobs that wait; counted up to their quota.")
    queued_jobs_max: int
    storage_bytes: int = Field(description="Images and results that are kept.")
    storage_bytes_max: int | None = Field(description="None: no quota.")
    priority_max: int = Field(description="The highest that a job may be given.")


class HealthResource(BaseModel):
    status: Literal["ok"] = "ok"
