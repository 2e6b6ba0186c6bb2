"""The OpenAPI document, and a page that shows it.

flask-openapi3 documents paths, queries and answers from the routes' own models. What it cannot say by itself is added
here: problems are `application/problem+json`, and two routes take JSON or multipart.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flask_openapi3_swagger
from flask import Blueprint, Response, abort, current_app, jsonify, render_template, send_from_directory
from flask_openapi3 import Info, OpenAPI
from pydantic import BaseModel

from api.auth import needed_scope
from api.problems import Problem
from api.schemas.experiments import ExperimentRequest
from api.schemas.jobs import InputRequest, JobRequest
from api.schemas.keys import KeyRequest
from shared.params import GenerationOptions
from shared.scopes import Scope

INFO = Info(
    title="Animatic",
    version=version("animatic"),
    description="Image-to-video jobs on Stable Video Diffusion. Errors are RFC 9457 problems with a stable `code`.",
)
SECURITY_SCHEMES: Any = {"api_key": {"type": "http", "scheme": "bearer", "description": "`ak_…`"}}

_RESOLVE = "/v1/models/{name}/resolve"
_FORMS: dict[str, type[BaseModel]] = {"/v1/jobs": JobRequest, "/v1/inputs": InputRequest}
_BODIES: dict[str, type[BaseModel]] = {
    **_FORMS,
    "/v1/experiments": ExperimentRequest,
    "/v1/keys": KeyRequest,
    _RESOLVE: GenerationOptions,
}
_REFERENCE = "#/components/schemas/{model}"
#: flask-openapi3 builds the document in place.
_BUILDING = threading.Lock()
_SWAGGER_FILES = Path(flask_openapi3_swagger.__file__).parent / "templates" / "swagger"

pages = Blueprint("docs", __name__, template_folder="templates")


@pages.get("/openapi.json")
def openapi_json() -> Response:
    app = current_app
    if not isinstance(app, OpenAPI):
        abort(404)
    with _BUILDING:
        return jsonify(_build_document(app))


@pages.get("/docs")
def docs() -> str:
    return render_template("docs.html")


@pages.get("/docs/swagger/<path:name>")
def swagger_file(name: str) -> Response:
    return send_from_directory(_SWAGGER_FILES, name, max_age=86_400)


@cache
def _build_document(app: OpenAPI) -> dict[str, Any]:
    """The whole document, as plain JSON values."""
    document: dict[str, Any] = app.api_doc
    schemas = document["components"]["schemas"]
    models: list[type[BaseModel]] = [Problem, *_BODIES.values()]
    for model in models:
        schema = model.model_json_schema(ref_template=_REFERENCE)
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    schemas.pop("ValidationErrorModel", None)
    names = [entry.name for entry in app.extensions["animatic"].catalogue]
    _close(schemas, names)
    document["security"] = [{"api_key": []}]
    scopes = _scopes(app)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path.startswith("/v1/models/{name}"):
                [name] = [parameter for parameter in operation["parameters"] if parameter["name"] == "name"]
                name["schema"]["enum"] = names
            scope = scopes.get((path, method.upper()))
            # The roles that are needed; an empty list: open. Source: OpenAPI 3.1, Security Requirement Object.
            operation["security"] = [] if scope is None else [{"api_key": [scope]}]
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    answer["content"] = {
                        "application/problem+json": {"schema": {"$ref": _REFERENCE.format(model="Problem")}}
                    }
            if method == "post" and path in _BODIES:
                operation["requestBody"] = _body(_BODIES[path], schemas, takes_form=path in _FORMS)
            if (link := _LINKED.get((method, path))) is not None:
                _add_links(document, operation, *link)
    for path in ("/v1/jobs", "/v1/experiments"):
        document["paths"][path]["post"].setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
    return document


def _scopes(app: OpenAPI) -> dict[tuple[str, str], Scope]:
    """The scope that a documented path and method needs."""
    return {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method): scope
        for rule in app.url_map.iter_rules()
        if (scope := needed_scope(app, rule.endpoint)) is not None
        for method in rule.methods or ()
    }


def _close(schemas: dict[str, Any], names: list[str]) -> None:
    """Say what the models alone cannot: which models there are, by these names, and that just one image is given."""
    for request in ("JobRequest", "ExperimentRequest"):
        schemas[request]["properties"]["model"]["anyOf"] = [{"type": "string", "enum": names}, {"type": "null"}]
    for name, sources in _SOURCES.items():
        schemas[name].update(_just_one(sources))


def _just_one(fields: Sequence[str]) -> dict[str, Any]:
    """JSON Schema: one of these is there, and is not null."""
    return {"oneOf": [{"required": [field], "properties": {field: {"type": "string"}}} for field in fields]}


def _form(model: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    """The model's fields as those of a form, which knows text and files, and carries the image itself."""
    fields = {}
    for name, field in schemas[model.__name__]["properties"].items():
        # A form has no null.
        [kind] = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
        fields[name] = {**kind, **{key: field[key] for key in ("description",) if key in field}}
    for source in _SOURCES[model.__name__]:
        del fields[source]
    # `labels` is an object here, too: a part of multipart that is an object is JSON (OpenAPI 3.1, Encoding Object).
    fields["image"] = {"type": "string", "format": "binary", "description": "The image file."}
    return {"type": "object", "properties": fields, "additionalProperties": False, "required": ["image"]}


def _add_links(document: dict[str, Any], operation: dict[str, Any], status: str, parameter: str, value: str) -> None:
    """Name the operations that take the id of what this one answers with."""
    operation["responses"][status]["links"] = {
        target["operationId"]: {"operationId": target["operationId"], "parameters": {parameter: value}}
        for path, operations in document["paths"].items()
        for target in operations.values()
        if f"{{{parameter}}}" in path
    }


_SOURCES = {
    "JobRequest": ("image_url", "input_id"),
    "InputRequest": ("image_url",),
    "ExperimentImage": ("image_url", "input_id"),
}
_LINKED = {
    ("post", "/v1/jobs"): ("202", "job_id", "$response.body#/id"),
    ("post", "/v1/experiments"): ("202", "experiment_id", "$response.body#/id"),
    ("post", "/v1/inputs"): ("201", "input_id", "$response.body#/id"),
    ("post", "/v1/keys"): ("201", "key_id", "$response.body#/id"),
    ("get", "/v1/jobs/{job_id}/deliveries"): ("200", "delivery_id", "$response.body#/first_id"),
    ("get", "/v1/models"): ("200", "name", "$response.body#/first_id"),
}

_IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "required": False,
    "description": "A repetition with the same key and request gets what the first one made, for 24 hours.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}


def _body(model: type[BaseModel], schemas: dict[str, Any], *, takes_form: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}}}
    if takes_form:
        content["multipart/form-data"] = {"schema": _form(model, schemas)}
    return {"required": True, "content": content}
