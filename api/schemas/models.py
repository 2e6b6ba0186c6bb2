"""The catalogue, and the workers that have loaded it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, Field

from api.schemas.lists import Page
from shared.params import GenerationParams


class ModelPath(BaseModel):
    name: str = Field(max_length=100)


class ModelLimits(BaseModel):
    max_pixels: int
    max_num_frames: int


class ModelResource(BaseModel):
    id: str = Field(description="The name to give as `model`.")
    object: Literal["model"] = "model"
    title: str
    repository: str | None
    revision: str | None
    licence: str
    defaults: GenerationParams
    limits: ModelLimits
    workers: int = Field(description="Workers that have loaded it and were seen lately.")
    queued: int = Field(description="Jobs that could start now.")


class ModelPage(Page[ModelResource]):
    """The catalogue."""


class ResolvedResource(BaseModel):
    object: Literal["resolved_params"] = "resolved_params"
    params: GenerationParams = Field(description="As a job would run with them; a seed that was not given is drawn.")
    warnings: list[str] = Field(description="What is legal, but not what the model was made for.")


class WorkerStatus(StrEnum):
    #: its pipeline is not ready yet.
    LOADING = "loading"
    IDLE = "idle"
    BUSY = "busy"
    #: takes no more jobs, since it is about to stop.
    DRAINING = "draining"


class WorkerResource(BaseModel):
    id: str
    object: Literal["worker"] = "worker"
    model: str
    device: str | None
    status: WorkerStatus
    job_id: str | None = Field(description="What it works on, if that is the tenant's own.")
    started_at: datetime
    last_seen_at: datetime


class WorkerPage(Page[WorkerResource]):
    """The workers that were seen lately."""
