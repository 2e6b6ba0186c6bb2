"""The web page: server-rendered frames, which its scripts fill from the API under /v1.

No route here shows anything of a tenant but the name of the key that is signed in; so tenancy is the API's alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from flask import Blueprint, g, make_response, redirect, render_template, request
from sqlalchemy import select
from werkzeug.wrappers import Response as BaseResponse

from api.auth import authenticate
from api.page_headers import harden
from api.services import reading, services
from api.sessions import csrf_token, read_cookie
from shared.errors import CsrfError, UnauthorizedError
from shared.params import GenerationParams
from shared.states import JobStatus
from shared.tables import ApiKey

pages = Blueprint("page", __name__, template_folder="../templates")

#: how the form shows the parameters: what people change most comes first.
GROUPS = (
    ("Motion", ("motion_bucket_id", "noise_aug_strength", "seed")),
    ("Quality", ("num_inference_steps", "min_guidance_scale", "max_guidance_scale")),
    ("Frames", ("num_frames", "fps", "playback_fps", "width", "height", "resize_mode")),
    ("Files and memory", ("frames_format", "decode_chunk_size")),
)


@dataclass(frozen=True)
class ParameterField:
    """One parameter as the form shows it; ranges and help are the API's own."""

    name: str
    help: str
    #: none: a number.
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    step: float | str = 1

    @property
    def label(self) -> str:
        return self.name.replace("_id", "").replace("num_", "").replace("_", " ").capitalize()


@pages.get("/")
def studio() -> BaseResponse:
    return _render(
        "studio.html",
        title="Studio",
        groups=parameter_groups(),
        max_body_bytes=services().settings.max_body_bytes,
    )


@pages.get("/jobs")
def jobs() -> BaseResponse:
    return _render("jobs.html", title="Jobs", statuses=list(JobStatus))


@pages.get("/jobs/<string:job_id>")
def job(job_id: str) -> BaseResponse:
    """The same for each job: the page's script asks the API, which tells whose it is."""
    return _render("job.html", title="Job")


@pages.get("/experiments")
def experiments() -> BaseResponse:
    return _render("experiments.html", title="Experiments")


@pages.get("/experiments/<string:experiment_id>")
def experiment(experiment_id: str) -> BaseResponse:
    return _render("experiment.html", title="Experiment")


def parameter_groups() -> list[tuple[str, list[ParameterField]]]:
    """The form's groups, from the model that validates requests."""
    schema = GenerationParams.model_json_schema()
    return [(title, [_field(name, schema) for name in names]) for title, names in GROUPS]


def _field(name: str, schema: dict[str, Any]) -> ParameterField:
    field = schema["properties"][name]
    reference = field.get("$ref")
    if reference is not None:
        return ParameterField(name, field["description"], choices=tuple(schema["$defs"][_tail(reference)]["enum"]))
    step = field.get("multipleOf", 1) if field["type"] == "integer" else "any"
    return ParameterField(name, field["description"], minimum=field["minimum"], maximum=field["maximum"], step=step)


def _tail(reference: str) -> str:
    return reference.rpartition("/")[2]


def _render(template: str, **values: Any) -> BaseResponse:
    """A page for whoever is signed in; others are sent to sign in, and back here afterwards."""
    try:
        authenticate()
    except (UnauthorizedError, CsrfError):
        here = request.full_path.rstrip("?")
        return harden(redirect(f"/sign-in?next={quote(here, safe='/')}", 303))
    token = read_cookie()
    with reading() as session:
        key = session.execute(select(ApiKey.name, ApiKey.hint).where(ApiKey.id == g.key_id)).one()
    html = render_template(template, key=key, csrf=csrf_token(token) if token else "", **values)
    return harden(make_response(html))
