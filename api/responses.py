"""Answers from pydantic models."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from flask import Response
from pydantic import BaseModel

from api.problems import Problem

Responses = dict[str | int | HTTPStatus, type[BaseModel] | dict[Any, Any] | None]


def json_response(model: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    response = Response(model.model_dump_json(), status, content_type="application/json")
    response.headers.update(headers or {})
    return response


Success = type[BaseModel] | dict[str, Any] | None


def documented(status: int, success: Success, *problems: int) -> Responses:
    """The `responses` of a route for the OpenAPI document: its success and its problems."""
    return {str(status): success, **{str(code): Problem for code in problems}}


def secured(status: int, success: Success, *problems: int) -> Responses:
    """As `documented`, of a route that needs a key: with the problems that any of these may have."""
    return documented(status, success, *sorted({*problems, 400, 401, 403, 429, 503}))
