"""Errors as answers: RFC 9457 `application/problem+json` with a stable `code`. The one map from errors to statuses."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, request
from gunicorn.http.errors import ParseException
from pydantic import BaseModel, Field, ValidationError
from werkzeug.exceptions import HTTPException

from shared.errors import (
    AnimaticError,
    ConflictError,
    CsrfError,
    ForbiddenError,
    GoneError,
    InvalidInputError,
    MalformedRequestError,
    NotFoundError,
    PayloadTooLargeError,
    QuotaExceededError,
    RateLimitedError,
    RequestError,
    TransientError,
    UnauthorizedError,
    UnsupportedMediaTypeError,
)
from shared.objects import ObjectMissingError

log = logging.getLogger(__name__)

_STATUSES: dict[type[AnimaticError], HTTPStatus] = {
    MalformedRequestError: HTTPStatus.BAD_REQUEST,
    UnauthorizedError: HTTPStatus.UNAUTHORIZED,
    ForbiddenError: HTTPStatus.FORBIDDEN,
    CsrfError: HTTPStatus.FORBIDDEN,
    QuotaExceededError: HTTPStatus.FORBIDDEN,
    NotFoundError: HTTPStatus.NOT_FOUND,
    ConflictError: HTTPStatus.CONFLICT,
    GoneError: HTTPStatus.GONE,
    ObjectMissingError: HTTPStatus.GONE,
    PayloadTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedMediaTypeError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    InvalidInputError: HTTPStatus.UNPROCESSABLE_ENTITY,
    RateLimitedError: HTTPStatus.TOO_MANY_REQUESTS,
    RequestError: HTTPStatus.BAD_REQUEST,
    TransientError: HTTPStatus.SERVICE_UNAVAILABLE,
}

#: codes for what Flask itself refuses before a route is reached.
_HTTP_CODES = {
    400: "malformed_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
    415: "unsupported_media_type",
    431: "headers_too_large",
}

_RETRY_AFTER_S = 2
#: an answer must not be many times as large as its request.
_SHOWN_ERRORS_MAX = 20


class FieldProblem(BaseModel):
    field: str
    message: str
    value: Any = Field(None, description="What was sent, shortened.")


class Problem(BaseModel):
    """What went wrong. Source: RFC 9457."""

    type: str = Field(examples=["urn:animatic:problem:invalid_input"])
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable, for programs.", examples=["invalid_input"])
    errors: list[FieldProblem] = []


def problem_response(
    status: int, code: str, detail: str, *, errors: list[FieldProblem] | None = None, retry_after_s: int | None = None
) -> Response:
    problem = Problem(
        type=f"urn:animatic:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        errors=errors or [],
    )
    response = Response(problem.model_dump_json(), status, content_type="application/problem+json")
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    if retry_after_s is not None:
        response.headers["Retry-After"] = str(retry_after_s)
    return response


def validation_problem(error: ValidationError) -> Response:
    """The fields that are wrong, each with its value and what would be right."""
    fields = [_field_problem(item) for item in error.errors(include_url=False)[:_SHOWN_ERRORS_MAX]]
    messages = [problem.message for problem in fields]
    if (unsaid := error.error_count() - len(fields)) > 0:
        messages.append(f"and {unsaid} more")
    detail = "; ".join(messages)
    return problem_response(HTTPStatus.UNPROCESSABLE_ENTITY, InvalidInputError.code, detail, errors=fields)


def _field_problem(item: Any) -> FieldProblem:
    field = ".".join(str(_shorten(part)) for part in item["loc"])
    value = item.get("input")
    match item["type"]:
        case "extra_forbidden":
            return FieldProblem(field=field, message=f"{field} is not a known field", value=_shorten(value))
        case "missing":
            return FieldProblem(field=field, message=f"{field} is required")
        case "value_error":
            return FieldProblem(field=field, message=str(item["msg"]).removeprefix("Value error, "))
    what = str(item["msg"]).removeprefix("Input ")
    return FieldProblem(field=field, message=f"{field} {what}, got {_shorten(value)!r}", value=_shorten(value))


def _shorten(value: Any) -> Any:
    if isinstance(value, str):
        # What is shown must be valid UTF-8, whatever was sent.
        text = value[:80].encode(errors="backslashreplace").decode()
        return text if len(value) <= 80 else f"{text}…"
    if value is None or isinstance(value, bool | int | float):
        return value
    return _shorten(str(value))


def register_error_handlers(app: Flask) -> None:
    """The outermost boundary: whatever is raised in a request becomes a problem, never a traceback."""

    @app.errorhandler(ValidationError)
    def on_validation_error(error: ValidationError) -> Response:
        return validation_problem(error)

    @app.errorhandler(AnimaticError)
    def on_animatic_error(error: AnimaticError) -> Response:
        status = next((_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES), None)
        if status is None:
            return on_exception(error)
        fields = [FieldProblem(field=error.field, message=str(error))] if error.field else []
        retry_after_s = error.retry_after_s if isinstance(error, RateLimitedError) else None
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            log.warning("%s %r: %s", request.method, request.path, error)
            retry_after_s = _RETRY_AFTER_S
        return problem_response(status, error.code, str(error), errors=fields, retry_after_s=retry_after_s)

    @app.errorhandler(ParseException)
    def on_broken_chunks(error: ParseException) -> Response:
        return problem_response(400, MalformedRequestError.code, f"the body's chunks cannot be read: {error}")

    @app.errorhandler(HTTPException)
    def on_http_exception(error: HTTPException) -> Response | HTTPException:
        if error.code is None or error.code < 400:
            return error
        detail = error.description or HTTPStatus(error.code).description
        if error.code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            detail = (
                f"the body must be at most {request.max_content_length} bytes, got {request.content_length or 'more'}"
            )
        elif error.code == HTTPStatus.NOT_FOUND:
            detail = f"there is no {request.path}"
        response = problem_response(error.code, _HTTP_CODES.get(error.code, "http_error"), detail)
        for name, value in error.get_headers():
            if name.lower() == "allow":
                response.headers[name] = value
        return response

    @app.errorhandler(Exception)
    def on_exception(error: Exception) -> Response:
        # As a literal: a path may hold line breaks, which would look like lines of the log.
        log.error("%s %r failed", request.method, request.path, exc_info=error)
        return problem_response(500, "internal_error", "something went wrong on our side; it has been logged")
