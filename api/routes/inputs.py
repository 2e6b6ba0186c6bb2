"""/v1/inputs: upload an image once, for many jobs."""

from __future__ import annotations

from flask import Response
from flask_openapi3 import APIBlueprint, Tag

from api.auth import needs
from api.intake import read_request
from api.jobs import take_input
from api.lookup import find
from api.responses import json_response, secured
from api.schemas.jobs import InputPath, InputRequest, InputResource
from api.services import transaction
from shared.ids import show_id
from shared.scopes import Scope
from shared.tables import Input

api = APIBlueprint("inputs", __name__, url_prefix="/v1/inputs", abp_tags=[Tag(name="inputs")])


@api.post("", summary="Upload an image", responses=secured(201, InputResource, 413, 415, 422))
@needs(Scope.JOBS_WRITE)
def upload_input() -> Response:
    """The id goes into a job's `input_id`."""
    _, source = read_request(InputRequest)
    return json_response(_resource(take_input(source)), 201)


@api.get("/<string:input_id>", summary="Read an input", responses=secured(200, InputResource, 404))
@needs(Scope.JOBS_READ)
def read_input(path: InputPath) -> Response:
    """What was stored of an uploaded image."""
    with transaction() as session:
        return json_response(_resource(find(session, Input, path.input_id, field="input_id")))


def _resource(stored: Input) -> InputResource:
    return InputResource(
        id=show_id("inp", stored.id),
        sha256=stored.sha256,
        size_bytes=stored.size_bytes,
        width=stored.width,
        height=stored.height,
        media_type=stored.media_type,
        created_at=stored.created_at,
    )
