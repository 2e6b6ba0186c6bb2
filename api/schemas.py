"""Request and answer models; validation and the OpenAPI document both come from these."""

from __future__ import annotations

import re
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    model_validator,
)

from shared.jobs.resource import ErrorResource, JobResource
from shared.params import GenerationOptions, GenerationParams, whole_numbers
from shared.scopes import ALL_SCOPES, Scope
from shared.states import AttemptOutcome, DeliveryStatus, JobStatus

Item = TypeVar("Item")

#: ten years.
MAX_KEY_LIFE_S = 10 * 365 * 86_400

_LABEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._/-]*$"
LabelName = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=_LABEL_NAME)]


def _check_text(value: str) -> str:
    if "\0" in value:
        raise ValueError(f"text must not hold a NUL character, got {value[:80]!r}")
    return value


def _check_label(value: str) -> str:
    if value.startswith("=") or "=" not in value:
        raise ValueError(f"label must be NAME=VALUE, got {value[:80]!r}")
    return value


#: what Postgres can store.
Text = Annotated[str, AfterValidator(_check_text), Field(json_schema_extra={"pattern": r"^[^\u0000]*$"})]
LabelFilter = Annotated[
    str,
    AfterValidator(_check_text),
    AfterValidator(_check_label),
    StringConstraints(max_length=320),
    Field(json_schema_extra={"pattern": r"^[^=\u0000]+=[^\u0000]*$"}),
]
LabelValue = Annotated[Text, StringConstraints(max_length=255)]


def _close_labels(schema: dict[str, Any]) -> None:
    # pydantic's own says what names that match are worth, and nothing of those that do not.
    schema["additionalProperties"] = schema.pop("patternProperties")[_LABEL_NAME]
    schema["propertyNames"]["pattern"] = _LABEL_NAME


Labels = Annotated[dict[LabelName, LabelValue], Field(max_length=16, json_schema_extra=_close_labels)]
Priority = Annotated[int, Field(ge=-100, le=100, description="Higher goes first.")]


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


class KeyRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Text = Field(min_length=1, max_length=100, description="For people, to tell keys apart.")
    scopes: list[Annotated[Scope, Strict(False)]] = Field(
        default_factory=lambda: [Scope.JOBS_READ, Scope.JOBS_WRITE],
        min_length=1,
        max_length=len(ALL_SCOPES),
        description="What the key may do; `admin` can make keys of any scope, and so includes the others.",
    )
    expires_in_s: int | None = Field(
        None, ge=1, le=MAX_KEY_LIFE_S, description="Seconds after which the key is refused; none: never."
    )

    @model_validator(mode="before")
    @classmethod
    def _take_whole_numbers(cls, values: Any) -> Any:
        return whole_numbers(values)


class JobPath(BaseModel):
    job_id: str = Field(max_length=100)


class FramePath(JobPath):
    number: int = Field(ge=0, description="Counts from 0.")


class InputPath(BaseModel):
    input_id: str = Field(max_length=100)


class KeyPath(BaseModel):
    key_id: str = Field(max_length=100)


class DeliveryPath(BaseModel):
    delivery_id: str = Field(max_length=100)


class ModelPath(BaseModel):
    name: str = Field(max_length=100)


class PageQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(None, pattern=r"^[a-z]{3,4}_[0-9a-f]{32}$", description="`last_id` of the page before.")
    limit: int = Field(20, ge=1, le=100)
    order: Literal["asc", "desc"] = Field("desc", description="By the time of creation.")


def _check_day(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        raise ValueError(f"a day must be YYYY-MM-DD, got {value[:80]!r}")
    return value


Day = Annotated[date, BeforeValidator(_check_day)]


class JobsQuery(PageQuery):
    status: JobStatus | None = None
    model: Text | None = Field(None, max_length=100)
    label: LabelFilter | None = Field(None, description="`NAME=VALUE` that the job must carry.")
    created_from: Day | None = Field(None, description="Accepted on this day or later, in UTC.")
    created_to: Day | None = Field(None, description="Accepted on this day or before, in UTC.")


class WaitQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    wait: float = Field(0, ge=0, le=60, description="Seconds to wait for the end, before answering anyway.")


class Page(BaseModel, Generic[Item]):
    """A page of a list, in the envelope that clients of OpenAI's format read."""

    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


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


class KeyResource(BaseModel):
    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    hint: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class NewKeyResource(KeyResource):
    key: str = Field(description="The key itself. Shown this once.")


class KeyPage(Page[KeyResource]):
    """A page of API keys."""


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


class WebhookSecretResource(BaseModel):
    object: Literal["webhook_secret"] = "webhook_secret"
    secret: str = Field(description="`whsec_…`, for the `webhook-signature` check of Standard Webhooks.")
    previous_secret_until: datetime | None = Field(description="Until then the secret before signs, too.")


class SignInLinkResource(BaseModel):
    object: Literal["sign_in_link"] = "sign_in_link"
    url: str = Field(description="Signs one browser in to the page, once.")
    expires_at: datetime


class ResolvedResource(BaseModel):
    object: Literal["resolved_params"] = "resolved_params"
    params: GenerationParams = Field(description="As a job would run with them; a seed that was not given is drawn.")
    warnings: list[str] = Field(description="What is legal, but not what the model was made for.")


class UsageResource(BaseModel):
    object: Literal["usage"] = "usage"
    queued_jobs: int = Field(description="Jobs that wait; counted up to their quota.")
    queued_jobs_max: int
    storage_bytes: int = Field(description="Images and results that are kept.")
    storage_bytes_max: int | None = Field(description="None: no quota.")


class HealthResource(BaseModel):
    status: Literal["ok"] = "ok"
