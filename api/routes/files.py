"""Downloads: the API redirects to short-lived signed URLs, and serves those of the local object store."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, redirect, request, send_file
from flask_openapi3 import APIBlueprint, Tag
from werkzeug.wrappers import Response as BaseResponse

from api.auth import needs
from api.lookup import find
from api.responses import secured
from api.schemas.jobs import FramePath, InputPath, JobPath
from api.services import services, transaction
from shared.errors import ConflictError, GoneError, NotFoundError
from shared.objects import LocalStore
from shared.scopes import Scope
from shared.states import JobStatus
from shared.tables import Input, Job

api = APIBlueprint("files", __name__, abp_tags=[Tag(name="files")])
#: not part of the API: its URLs come signed, from the local object store.
local = Blueprint("local_files", __name__)

_RESPONSES = secured(302, {"description": "Found: a short-lived download URL in `Location`."}, 404, 409, 410, 422)


@api.get("/v1/jobs/<string:job_id>/video", summary="Download the video", responses=_RESPONSES)
@needs(Scope.JOBS_READ)
def download_video(path: JobPath) -> BaseResponse:
    """The MP4 (H.264)."""
    return _redirect(_result(path.job_id)["video"], f"{path.job_id}.mp4")


@api.get("/v1/jobs/<string:job_id>/manifest", summary="Download the manifest", responses=_RESPONSES)
@needs(Scope.JOBS_READ)
def download_manifest(path: JobPath) -> BaseResponse:
    """All that is needed to make the same video again."""
    return _redirect(_result(path.job_id)["manifest"], f"{path.job_id}.json")


@api.get("/v1/jobs/<string:job_id>/frames/<int:number>", summary="Download a frame", responses=_RESPONSES)
@needs(Scope.JOBS_READ)
def download_frame(path: FramePath) -> BaseResponse:
    """One frame, if the job asked for frames."""
    frames = _result(path.job_id)["frames"]
    if path.number >= len(frames):
        raise NotFoundError(f"the job has {len(frames)} frame files, got number {path.number}")
    frame = frames[path.number]
    return _redirect(frame, f"{path.job_id}-{frame['key'].rpartition('/')[2]}")


@api.get("/v1/inputs/<string:input_id>/image", summary="Download an input", responses=_RESPONSES)
@needs(Scope.JOBS_READ)
def download_input(path: InputPath) -> BaseResponse:
    """The image as it was re-encoded and stored: a PNG."""
    with transaction() as session:
        stored = find(session, Input, path.input_id, field="input_id")
    file = {"key": stored.object_key, "media_type": stored.media_type}
    return _redirect(file, f"{path.input_id}.png")


def _result(job_id: str) -> dict[str, Any]:
    with transaction() as session:
        job = find(session, Job, job_id)
    if job.expired_at is not None:
        raise GoneError(f"the files of this job were kept until {job.expired_at.isoformat()}")
    if job.status != JobStatus.SUCCEEDED or job.result is None:
        raise ConflictError(f"the job is {job.status}; only a succeeded job has files")
    return job.result


def _redirect(file: dict[str, Any], filename: str) -> BaseResponse:
    url = services().store.signed_url(
        file["key"],
        ttl_s=services().settings.presigned_url_ttl_s,
        media_type=file["media_type"],
        filename=filename,
    )
    response = redirect(url, 302)
    response.headers["Cache-Control"] = "no-store"
    return response


@local.get("/files/<path:key>")
def serve_file(key: str) -> Response:
    """An object of the local store, for whoever holds a signed URL; takes range requests."""
    store = services().store
    if not isinstance(store, LocalStore):
        raise NotFoundError("files are served by the object store itself")
    file = store.open_signed(key, request.args.to_dict())
    response = send_file(
        file,
        mimetype=request.args["type"],
        as_attachment="filename" in request.args,
        download_name=request.args.get("filename"),
        conditional=True,
        max_age=0,
    )
    response.headers["Cache-Control"] = "private, no-store"
    return response
