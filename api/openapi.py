"""The OpenAPI document, and a page that shows it.

flask-openapi3 documents paths, queries and answers from the routes' own models. What it cannot say by itself is added
here: problems are `application/problem+json`, and two routes take JSON or multipart.
"""

from __future__ import annotations

import re
import threading
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
from api.schemas import InputRequest, JobRequest, KeyRequest
from shared.scopes import Scope

INFO = Info(
    title="Animatic",
    version=version("animatic"),
    description="Image-to-video jobs on Stable Video Diffusion. Errors are RFC 9457 problems with a stable `code`.",
)
SECURITY_SCHEMES: Any = {"api_key": {"type": "http", "scheme": "bearer", "description": "`ak_…`"}}

_FORMS: dict[str, type[BaseModel]] = {"/v1/jobs": JobRequest, "/v1/inputs": InputRequest}
_BODIES: dict[str, type[BaseModel]] = {**_FORMS, "/v1/keys": KeyRequest}
_REFERENCE = "#/components/schemas/{model}"
#: flask-openapi3 builds the document in place.
_BUILDING = threading.Lock()
_SWAGGER_FILES = Path(flask_openapi3_swagger.__file__).parent / "templates" / "swagger"

pages = Blueprint("docs", __name__, template_folder="templates", static_folder="static", static_url_path="/static")


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
    document["security"] = [{"api_key": []}]
    scopes = _scopes(app)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scope = scopes.get((path, method.upper()))
            # The roles that are needed; an empty list: open. Source: OpenAPI 3.1, Security Requirement Object.
            operation["security"] = [] if scope is None else [{"api_key": [scope]}]
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    answer["content"] = {
                        "application/problem+json": {"schema": {"$ref": _REFERENCE.format(model="Problem")}}
                    }
            if method == "post" and path in _BODIES:
                operation["requestBody"] = _body(_BODIES[path], takes_form=path in _FORMS)
    if "post" in document["paths"].get("/v1/jobs", {}):
        document["paths"]["/v1/jobs"]["post"].setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
    return document


def _scopes(app: OpenAPI) -> dict[tuple[str, str], Scope]:
    """The scope that a documented path and method needs."""
    return {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method): scope
        for rule in app.url_map.iter_rules()
        if (scope := needed_scope(app, rule.endpoint)) is not None
        for method in rule.methods or ()
    }


_IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "required": False,
    "description": "A repetition with the same key and request gets the first one's job, for 24 hours.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}


def _body(model: type[BaseModel], *, takes_form: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}}}
    if takes_form:
        form = dict(model.model_json_schema(ref_template=_REFERENCE)["properties"])
        if "labels" in form:
            form["labels"] = {"type": "string", "description": form["labels"]["description"]}
        form["image"] = {"type": "string", "format": "binary", "description": "The image file."}
        schema = {"type": "object", "properties": form, "additionalProperties": False}
        content["multipart/form-data"] = {"schema": schema}
    return {"required": True, "content": content}
