"""Reading a request that carries an image: multipart with a file, or JSON; both end in the same model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from flask import request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import BadRequest

from api.data_uri import decode_data_uri, is_data_uri
from api.images import AcceptedImage
from api.schemas.fields import IMAGE_NAME_MAX
from api.schemas.jobs import InputRequest, JobRequest
from api.services import current_tenant, services
from shared.deadlines import Deadline, Watchdog
from shared.errors import (
    InvalidInputError,
    MalformedRequestError,
    PayloadTooLargeError,
    UnsupportedMediaTypeError,
)
from shared.ids import new_id, show_id
from shared.tables import Input

#: no request of ours needs nearly as many; each that is wrong would be an error of its own.
_JSON_VALUES_MAX = 4096

Request = TypeVar("Request", JobRequest, InputRequest)
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class ImageSource:
    """Where a request's image comes from; just one of them is set."""

    upload: bytes | None = None
    url: str | None = None
    input_id: str | None = None
    #: as the caller's browser or program says.
    upload_name: str | None = None

    def file_name(self) -> str | None:
        """What the image's file is called, without folders and unprintable characters; None: nobody says."""
        path = self.upload_name or ""
        if self.url is not None and not is_data_uri(self.url):
            path = unquote(urlsplit(self.url).path)
        name = "".join(character for character in re.split(r"[/\\]", path)[-1] if character.isprintable())
        name = name.strip()[:IMAGE_NAME_MAX]
        return None if name in ("", "-") else name  # of standard input programs say "-"

    def digest(self) -> str:
        """What stands for the image in an idempotency fingerprint: its bytes, or how it was named."""
        if self.upload is not None:
            return f"upload:{hashlib.sha256(self.upload).hexdigest()}"
        return f"url:{self.url}" if self.url is not None else f"input:{self.input_id}"


def read_request(model: type[Request]) -> tuple[Request, ImageSource]:
    """Parse and validate the body.

    Raises:
        ValidationError: fields are unknown, of the wrong type or out of range.
        InvalidInputError: there is no image, or more than one.
        MalformedRequestError: the body is not what its Content-Type says.
        UnsupportedMediaTypeError: neither multipart nor JSON.
    """
    if request.mimetype == "multipart/form-data":
        parsed, file = _read_form(model)
    elif request.mimetype == "application/json":
        parsed, file = read_json(model), None
    else:
        raise UnsupportedMediaTypeError(
            f"Content-Type must be multipart/form-data or application/json, got {request.mimetype[:80] or 'none'!r}"
        )
    source = ImageSource(
        upload=None if file is None else file.read(),
        url=parsed.image_url,
        input_id=getattr(parsed, "input_id", None),
        upload_name=None if file is None else file.filename,
    )
    given = [
        name
        for name, value in (("image", source.upload), ("image_url", source.url), ("input_id", source.input_id))
        if value is not None
    ]
    if len(given) != 1:
        choices = "image, image_url or input_id" if model is JobRequest else "image or image_url"
        raise InvalidInputError(
            f"give just one of {choices}, got {' and '.join(given) if given else 'none'}", field="image"
        )
    return parsed, source


def load_image(source: ImageSource, *, place: str = "") -> AcceptedImage:
    """Fetch the image if need be, decode and check it, and re-encode it.

    Args:
        place: where in the request it stands, such as `images.3.`.

    Raises:
        InvalidInputError: it cannot be fetched, is no image, or is too small or too large.
        DecoderBusyError: too many images are being decoded.
    """
    settings = services().settings
    field = f"{place}image_url"
    if source.upload is not None:
        field, data = f"{place}image", source.upload
    elif source.url is not None and is_data_uri(source.url):
        data = decode_data_uri(source.url, settings.max_body_bytes, field=field)
    elif source.url is not None:
        data = services().outbound.fetch(
            source.url, timeout_s=settings.fetch_timeout_s, max_bytes=settings.max_body_bytes, field=field
        )
    else:
        raise ValueError("this source is stored already")
    return services().decoder.accept(data, field=field)


def store_image(image: AcceptedImage) -> Input:
    """Put an accepted image into the object store; the row is the caller's to write, or the object's to delete."""
    input_id = new_id()
    key = f"inputs/{show_id('inp', input_id)}.png"
    services().store.put(key, image.data, media_type=image.media_type)
    return Input(
        id=input_id,
        tenant_id=current_tenant(),
        object_key=key,
        sha256=image.sha256,
        size_bytes=len(image.data),
        width=image.width,
        height=image.height,
        media_type=image.media_type,
    )


def read_json(model: type[Model]) -> Model:
    """Parse and validate a JSON body, whatever its Content-Type.

    Raises:
        ValidationError: fields are unknown, of the wrong type or out of range.
        MalformedRequestError: it is not JSON.
        PayloadTooLargeError: it is larger than allowed, or holds too many values.
    """
    with arriving():
        body = request.get_data(cache=False)
    if request.content_length is None and len(body) >= services().settings.max_body_bytes:
        # Sent in chunks, it was cut off at the limit.
        raise PayloadTooLargeError(f"the body must be at most {services().settings.max_body_bytes} bytes, got more")
    _check_value_count("the body", body)
    try:
        # pydantic's parser limits the nesting by itself, so a deep body costs nothing.
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] != "json_invalid":
            raise
        raise MalformedRequestError(
            f"the body is not valid JSON: {first['msg'].removeprefix('Invalid JSON: ')}"
        ) from None


def _read_form(model: type[Request]) -> tuple[Request, FileStorage | None]:
    try:
        with arriving():
            form, files = request.form, request.files
    except (BadRequest, ValueError):
        raise MalformedRequestError("the multipart body cannot be parsed") from None
    unknown = [name for name in files if name != "image"]
    if unknown:
        raise InvalidInputError(
            f"{unknown[0][:80]} is not a known file field; send the file as image", field=unknown[0][:80]
        )
    uploads = files.getlist("image")
    if len(uploads) > 1:
        raise InvalidInputError(f"send one file as image, got {len(uploads)}", field="image")
    if "image" in form:
        raise InvalidInputError("image must be a file (with curl: -F image=@photo.jpg), got text", field="image")
    fields: dict[str, Any] = {}
    for name in form:
        values = form.getlist(name)
        if len(values) > 1:
            raise InvalidInputError(f"{name[:80]} must be given once, got {len(values)} times", field=name[:80])
        fields[name] = values[0]
    if model is JobRequest and "labels" in fields:
        fields["labels"] = _json_object("labels", fields["labels"])
    # Form fields are text: "25" is a number here, as it is not in JSON.
    return model.model_validate(fields), uploads[0] if uploads else None


@contextmanager
def arriving() -> Iterator[None]:
    """Cut the caller's connection if the body takes too long: it would hold a thread for as long as it likes."""
    sock = request.environ.get("gunicorn.socket")
    if sock is None:
        yield
        return
    watchdog = Watchdog(sock, Deadline(services().settings.upload_timeout_s))
    try:
        yield
    finally:
        watchdog.disarm()


def _json_object(field: str, text: str) -> dict[str, Any]:
    _check_value_count(field, text.encode())
    try:
        value = from_json(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InvalidInputError(
            f'{field} must be a JSON object such as {{"shot": "1"}}, got {text[:80]!r}', field=field
        )
    return value


def _check_value_count(name: str, body: bytes) -> None:
    """Before it is parsed, and by what every value but the first must come after: a data URI has one comma."""
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > _JSON_VALUES_MAX:
        raise PayloadTooLargeError(f"{name} must hold at most {_JSON_VALUES_MAX} JSON values, got more")
