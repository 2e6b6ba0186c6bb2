"""The headers of the web page: stricter than those of the API's other answers, but media may come from the store."""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import urlsplit

from werkzeug.wrappers import Response

from api.services import services

Answer = TypeVar("Answer", bound=Response)


def harden(response: Answer) -> Answer:
    """Say what the page may load, and that nobody keeps it, frames it or holds its window."""
    files = _file_origin()
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: {files}; "
        f"media-src 'self' blob: {files}; connect-src 'self' {files}; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers["Cache-Control"] = "no-store"
    return response


def _file_origin() -> str:
    """Where download URLs lead: the object store, or this service under its public name."""
    url = urlsplit(services().store.signed_url("x", ttl_s=60, media_type="video/mp4"))
    return f"{url.scheme}://{url.netloc}"
