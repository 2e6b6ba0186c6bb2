"""Jobs, and the images that they are made from."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.fields import Day, ImageName, LabelFilter, Labels, Priority, Text
from api.schemas.lists import Page, PageQuery
from shared.jobs.resource import ErrorResource, JobResource
from shared.params import GenerationOptions
from shared.states import AttemptOutcome, JobStatus


class JobRequest(GenerationOptions):
    """One image and the parameters of its video. All but the image may be left out."""

    image_url: str | None = Field(
        None,
        max_length=64 * 2**20,
        description="http(s) URL that the API fetches, or a `data:image/…;base64,` URI. Instead of `image`.",
    )
    input_id: str | None = Field(
        None, description="An image uploaded before with `POST /v1/inputs`. Instead of `image`."
    )
    image_name: ImageName | None = Field(
        None, description="What to call the image in lists; default: the name of the file, or of the URL's last part."
    )
    model: str | None = Field(None, max_length=100, description="Catalogue name; default: the first of /v1/models.")
    priority: Priority = 0
    labels: Labels = Field(default_factory=dict, description="Your own names and values; in a form, a JSON object.")
    webhook_url: str | None = Field(
        None, max_length=2048, description="Gets a signed POST (Standard Webhooks) when the job has ended."
    )


class InputRequest(BaseModel):
    """An image for later jobs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_url: str | None = Field(None, max_length=64 * 2**20, description="As in a job. Instead of `image`.")


class JobPath(BaseModel):
    job_id: str = Field(max_length=100)


class FramePath(JobPath):
    number: int = Field(ge=0, description="Counts from 0.")


class InputPath(BaseModel):
    input_id: str = Field(max_length=100)


class JobsQuery(PageQuery):
    status: JobStatus | None = None
    model: Text | None = Field(None, max_length=100)
    label: LabelFilter | None = Field(None, description="`NAME=VALUE` that the job must carry.")
    created_from: Day | None = Field(None, description="Accepted on this day or later, in UTC.")
    created_to: Day | None = Field(None, description="Accepted on this day or before, in UTC.")


class JobPage(Page[JobResource]):
    """A page of jobs."""


class InputResource(BaseModel):
    id: str
    object: Literal["input"] = "input"
    sha256: str = Field(description="Of the image as re-encoded and stored.")
    size_bytes: int
    width: int
    height: int
    media_type: str
    created_at: datetime


class AttemptResource(BaseModel):
    attempt: int
    worker_id: str
    started_at: datetime
    ended_at: datetime | None
    outcome: AttemptOutcome | None
    error: ErrorResource | None


class EventResource(BaseModel):
    status: JobStatus = Field(description="What the job moved to.")
    attempt: int
    reason: str
    at: datetime


class TimelineResource(BaseModel):
    object: Literal["timeline"] = "timeline"
    job_id: str
    events: list[EventResource]
    attempts: list[AttemptResource]
