"""/v1/jobs: submit, read, list, cancel, delete, and stream a job's progress."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

from flask import Response, request
from flask_openapi3 import APIBlueprint, Tag
from sqlalchemy import and_, select

from api.auth import check_still_valid, needs
from api.intake import read_request
from api.jobs import accept_job, show_job
from api.live import stream, stream_schema, wait_for_end
from api.lookup import find, missing, owned
from api.pages import envelope, fetch_page
from api.responses import json_response, secured
from api.schemas.jobs import AttemptResource, EventResource, JobPage, JobPath, JobRequest, JobsQuery, TimelineResource
from api.schemas.lists import WaitQuery
from api.services import current_tenant, reading, services, transaction
from shared.ids import parse_id, show_id
from shared.jobs.resource import ErrorResource, JobResource, job_resource
from shared.jobs.stop import cancel_job, request_deletion
from shared.scopes import Scope
from shared.states import AttemptOutcome, JobStatus
from shared.tables import Attempt, Job, JobEvent

api = APIBlueprint("jobs", __name__, url_prefix="/v1/jobs", abp_tags=[Tag(name="jobs")])

_STREAM = stream_schema("job", "A JobResource")


@api.post(
    "",
    summary="Submit an image",
    responses=secured(202, JobResource, 404, 409, 413, 415, 422),
)
@needs(Scope.JOBS_WRITE)
def submit_job() -> Response:
    """Answers once the job is durable. With an `Idempotency-Key` header a repetition gets the first one's job."""
    parsed, source = read_request(JobRequest)
    job, replayed = accept_job(parsed, source, request.headers.get("Idempotency-Key"))
    headers = {"Location": job.links.self}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    return json_response(job, 202, headers)


@api.get("", summary="List jobs", responses=secured(200, JobPage, 404, 422))
@needs(Scope.JOBS_READ)
def list_jobs(query: JobsQuery) -> Response:
    """The tenant's jobs, newest first."""
    condition = and_(Job.tenant_id == current_tenant(), Job.delete_requested_at.is_(None))
    if query.status is not None:
        condition = and_(condition, Job.status == query.status)
    if query.model is not None:
        condition = and_(condition, Job.model == query.model)
    if query.label is not None:
        name, _, value = query.label.partition("=")
        condition = and_(condition, Job.labels.contains({name: value}))
    if query.created_from is not None:
        condition = and_(condition, Job.created_at >= datetime.combine(query.created_from, datetime.min.time(), UTC))
    if query.created_to is not None:
        condition = and_(condition, Job.created_at <= datetime.combine(query.created_to, datetime.max.time(), UTC))
    with reading() as session:
        rows, has_more = fetch_page(session, Job, condition, query, "job")
        return json_response(
            JobPage(**envelope([job_resource(row, services().settings.public_url) for row in rows], has_more))
        )


@api.get("/<string:job_id>", summary="Read a job", responses=secured(200, JobResource, 404, 422))
@needs(Scope.JOBS_READ)
def read_job(path: JobPath, query: WaitQuery) -> Response:
    """With `?wait=SECONDS` the answer comes when the job has ended, or after that time."""
    resource = wait_for_end(parse_id("job", path.job_id), partial(_read, path.job_id), _is_over, query.wait)
    return json_response(resource)


@api.get("/<string:job_id>/timeline", summary="Read a job's history", responses=secured(200, TimelineResource, 404))
@needs(Scope.JOBS_READ)
def read_timeline(path: JobPath) -> Response:
    """Each change of status with its reason, and each attempt with its end; oldest first."""
    with reading() as session:
        job = find(session, Job, path.job_id)
        events = session.scalars(select(JobEvent).where(JobEvent.job_id == job.id).order_by(JobEvent.id)).all()
        attempts = session.scalars(select(Attempt).where(Attempt.job_id == job.id).order_by(Attempt.attempt)).all()
    return json_response(
        TimelineResource(
            job_id=path.job_id,
            events=[
                EventResource(status=JobStatus(row.status), attempt=row.attempt, reason=row.reason, at=row.at)
                for row in events
            ],
            attempts=[
                AttemptResource(
                    attempt=row.attempt,
                    worker_id=show_id("wrk", row.worker_id),
                    started_at=row.started_at,
                    ended_at=row.ended_at,
                    outcome=AttemptOutcome(row.outcome) if row.outcome else None,
                    error=ErrorResource(code=row.error_code, message=row.error_message or "")
                    if row.error_code
                    else None,
                )
                for row in attempts
            ],
        )
    )


@api.post(
    "/<string:job_id>/cancel",
    summary="Cancel a job",
    responses=secured(200, JobResource, 404, 409),
)
@needs(Scope.JOBS_WRITE)
def cancel(path: JobPath) -> Response:
    """A queued job ends at once; a running one within one denoising step."""
    with transaction() as session:
        job = cancel_job(session, owned(Job, path.job_id), public_url=services().settings.public_url)
        if job is None:
            raise missing(Job, path.job_id)
        return json_response(show_job(session, job))


@api.delete("/<string:job_id>", summary="Delete a job", responses=secured(204, None, 404))
@needs(Scope.JOBS_WRITE)
def delete_job(path: JobPath) -> Response:
    """Cancels it if it is not over, hides it at once, and erases its image, results and parameters soon after."""
    with transaction() as session:
        if not request_deletion(session, owned(Job, path.job_id), public_url=services().settings.public_url):
            raise missing(Job, path.job_id)
    return Response(status=204)


@api.get(
    "/<string:job_id>/events",
    summary="Stream a job's progress",
    responses=secured(200, _STREAM, 404),
)
@needs(Scope.JOBS_READ)
def stream_events(path: JobPath) -> Response:
    """Server-sent events: `job` with the whole job, now and at each change; the stream ends when the job has."""
    return stream("job", parse_id("job", path.job_id), partial(_read, path.job_id), _is_over)


def _read(job_id: str) -> JobResource:
    with reading() as session:
        check_still_valid(session)
        return show_job(session, find(session, Job, job_id))


def _is_over(job: JobResource) -> bool:
    return job.status.is_terminal
