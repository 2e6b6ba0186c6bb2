"""Signing in to the page and out again; and links that sign in once."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, g, make_response, render_template, request
from flask_openapi3 import APIBlueprint, Tag
from pydantic_core import from_json

from api.auth import authenticate, find_key, needs
from api.intake import arriving
from api.page_headers import harden
from api.responses import json_response, secured
from api.schemas.keys import SignInLinkResource
from api.services import services, transaction
from api.sessions import clear_cookie, end_session, make_link, read_cookie, set_cookie, start_session, use_link
from shared.errors import (
    CsrfError,
    ForbiddenError,
    InvalidInputError,
    MalformedRequestError,
    RateLimitedError,
    UnauthorizedError,
    UnsupportedMediaTypeError,
)
from shared.scopes import Scope

_CREDENTIAL_BYTES_MAX = 4096

api = APIBlueprint("sign_in_links", __name__, url_prefix="/v1/sign-in-links", abp_tags=[Tag(name="keys")])
#: for browsers: not part of the API.
browser = Blueprint("sign_in", __name__, template_folder="../templates")


@api.post("", summary="Make a sign-in link", responses=secured(201, SignInLinkResource))
@needs(Scope.JOBS_WRITE)
def post_link() -> Response:
    """A URL that signs one browser in, once, within the hour; as the key that asks. A signed-in browser cannot."""
    if g.is_by_cookie:
        # Its session would never end: each could make the next.
        raise ForbiddenError("a link that signs in is made with an API key, not by a browser that is signed in")
    with transaction() as session:
        token, expires_at = make_link(session, g.key_id)
    # Behind `#` it reaches neither a server's log nor a Referer header.
    url = f"{services().settings.public_url.rstrip('/')}/sign-in#{token}"
    return json_response(SignInLinkResource(url=url, expires_at=expires_at), 201)


@browser.get("/sign-in")
def sign_in_page() -> Response:
    return harden(make_response(render_template("sign_in.html", title="Sign in")))


@browser.post("/session")
def sign_in() -> Response:
    """Takes `{"key": …}` or `{"link": …}`; the answer sets the cookie."""
    _require_own_page()
    standing = services().limiter.hit_sign_in(request.remote_addr or "")
    if not standing.is_allowed:
        raise RateLimitedError(
            f"at most {standing.limit} tries to sign in a minute from one address; try again in {standing.reset_s} s",
            retry_after_s=standing.reset_s,
        )
    name, value = _read_credential()
    with transaction() as session:
        key_id = use_link(session, value) if name == "link" else find_key(value).id
        if key_id is None:
            raise UnauthorizedError("this link has been used or is too old; sign in with your API key")
        if (earlier := read_cookie()) is not None:
            end_session(session, earlier)
        token = start_session(session, key_id)
    response = Response(status=204)
    set_cookie(response, token)
    return response


@browser.delete("/session")
def sign_out() -> Response:
    authenticate()
    if (token := read_cookie()) is not None:
        with transaction() as session:
            end_session(session, token)
    response = Response(status=204)
    clear_cookie(response)
    return response


def _require_own_page() -> None:
    # Nobody is to be signed in as somebody else by another site. A form of one cannot send JSON.
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        raise CsrfError("sign in on the service's own page")
    if request.mimetype != "application/json":
        raise UnsupportedMediaTypeError(
            f"Content-Type must be application/json, got {request.mimetype[:80] or 'none'!r}"
        )


def _read_credential() -> tuple[str, str]:
    # Whoever sends it has shown no key yet.
    request.max_content_length = _CREDENTIAL_BYTES_MAX
    try:
        with arriving():
            body: Any = from_json(request.get_data())
    except ValueError:
        raise MalformedRequestError("the body is not JSON") from None
    if not isinstance(body, dict) or len(body) != 1 or not set(body) <= {"key", "link"}:
        raise InvalidInputError('give just one of "key" and "link"')
    [(name, value)] = body.items()
    value = value.strip() if isinstance(value, str) else ""
    if not value:
        raise InvalidInputError("paste an API key: it begins with ak_", field=name)
    return name, value
