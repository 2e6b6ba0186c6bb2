"""The job as the outside sees it: in API answers, in streams and in webhook bodies."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field, ValidationError

from shared.ids import show_id
from shared.measures import Measures
from shared.params import FramesFormat, GenerationParams, ResizeMode
from shared.states import JobStatus, Phase
from shared.tables import Job

#: how much of an attempt's time each phase takes, roughly: progress should move evenly.
_PHASE_STARTS = {
    Phase.FETCH: 0.0,
    Phase.DENOISE: 0.02,
    Phase.DECODE: 0.80,
    Phase.ENCODE: 0.92,
    Phase.UPLOAD: 0.96,
    Phase.FINISH: 0.99,
}


class ProgressResource(BaseModel):
    phase: Phase
    step: int = Field(description="Denoising steps done.")
    total_steps: int
    fraction: float = Field(ge=0, le=1, description="Estimate of the attempt's progress.")


class ErrorResource(BaseModel):
    code: str
    message: str


class FileResource(BaseModel):
    url: str = Field(description="API URL; redirects to a short-lived download URL.")
    size_bytes: int
    sha256: str
    media_type: str


class ResultResource(BaseModel):
    video: FileResource
    frames: list[FileResource]
    manifest: FileResource
    num_frames: int
    width: int
    height: int
    duration_s: float


class LinksResource(BaseModel):
    self: str
    events: str
    video: str | None


class JobResource(BaseModel):
    """One image-to-video job."""

    id: str = Field(examples=["job_0192f0c1d7a27c3e8f10aa55bb66cc77"])
    object: Literal["job"] = "job"
    status: JobStatus
    model: str
    params: GenerationParams
    input_id: str | None
    image_name: str | None = Field(
        description="What the image is called: as the request says, or as its file is named."
    )
    grid_values: dict[str, Any] | None = Field(
        description="In an experiment: value by parameter of the grid. With `image_name` it tells the cells apart."
    )
    labels: dict[str, str]
    priority: int
    warnings: list[str]
    webhook_url: str | None
    experiment_id: str | None = Field(description="The experiment that made it.")
    attempt: int = Field(description="Tries so far.")
    progress: ProgressResource | None = Field(description="While running.")
    queue_position: int | None = Field(None, description="Jobs that go first, while queued; not in lists.")
    error: ErrorResource | None
    result: ResultResource | None
    measures: Measures | None = Field(description="Of a succeeded job's video, if they were taken.")
    expired_at: datetime | None = Field(description="Since when the files of a succeeded job are gone.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    links: LinksResource


def job_resource(job: Job, public_url: str, *, queue_position: int | None = None) -> JobResource:
    """Build the resource.

    Args:
        public_url: `ANIMATIC_PUBLIC_URL`; links never point at the object store itself.
    """
    base = f"{public_url.rstrip('/')}/v1/jobs/{show_id('job', job.id)}"
    return JobResource(
        id=show_id("job", job.id),
        status=JobStatus(job.status),
        model=job.model,
        params=_params(job.params),
        input_id=show_id("inp", job.input_id) if job.input_id else None,
        image_name=job.image_name,
        grid_values=None if job.grid_axes is None else {axis: job.params[axis] for axis in job.grid_axes},
        labels=job.labels,
        priority=job.priority,
        warnings=job.warnings,
        webhook_url=job.webhook_url,
        experiment_id=show_id("exp", job.experiment_id) if job.experiment_id else None,
        attempt=job.attempt,
        progress=_progress(job),
        queue_position=queue_position,
        error=ErrorResource(code=job.error_code, message=job.error_message or "") if job.error_code else None,
        result=_result(job.result, base) if job.result and job.expired_at is None else None,
        measures=Measures.model_validate(job.measures) if job.measures else None,
        expired_at=job.expired_at,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        cancel_requested_at=job.cancel_requested_at,
        links=LinksResource(
            self=base,
            events=f"{base}/events",
            video=f"{base}/video" if job.status == JobStatus.SUCCEEDED and job.expired_at is None else None,
        ),
    )


def _params(stored: dict[str, Any]) -> GenerationParams:
    try:
        return GenerationParams.model_validate(stored)
    except ValidationError:
        # Accepted by a version with other limits: shown as it is.
        enums = {
            "resize_mode": ResizeMode(stored["resize_mode"]),
            "frames_format": FramesFormat(stored["frames_format"]),
        }
        return GenerationParams.model_construct(**{**stored, **enums})


def _progress(job: Job) -> ProgressResource | None:
    if job.status != JobStatus.RUNNING or job.phase is None:
        return None
    return ProgressResource(
        phase=Phase(job.phase),
        step=job.step,
        total_steps=job.total_steps,
        fraction=progress_of(job.phase, job.step, job.total_steps),
    )


def progress_of(phase: str | None, step: int, total_steps: int) -> float:
    """Estimate of a running attempt's progress, 0 to 1."""
    if phase is None:
        return 0.0
    start = _PHASE_STARTS[Phase(phase)]
    within = 0.0
    if phase == Phase.DENOISE and total_steps:
        within = (_PHASE_STARTS[Phase.DECODE] - start) * step / total_steps
    return round(min(start + within, 1.0), 3)


def _result(result: dict[str, Any], base: str) -> ResultResource:
    def file(stored: dict[str, Any], url: str) -> FileResource:
        return FileResource(url=url, **{name: stored[name] for name in ("size_bytes", "sha256", "media_type")})

    return ResultResource(
        video=file(result["video"], f"{base}/video"),
        frames=[file(frame, f"{base}/frames/{number}") for number, frame in enumerate(result["frames"])],
        manifest=file(result["manifest"], f"{base}/manifest"),
        num_frames=result["num_frames"],
        width=result["width"],
        height=result["height"],
        duration_s=result["duration_s"],
    )


def job_prefix(job_id: UUID) -> str:
    """Where a job's objects lie; each attempt writes below its own folder and never into another's."""
    return f"jobs/{show_id('job', job_id)}/"
