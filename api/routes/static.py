"""The page's scripts, styles and icon; each is read and compressed once.

What the API answers is not compressed: where a secret stands beside what a stranger sent, the size would tell of both
(BREACH, https://breachattack.com).
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flask import Blueprint, Response, abort, request
from werkzeug.wrappers import Response as BaseResponse

static = Blueprint("static", __name__)

_FOLDER = Path(__file__).parent.parent / "static"
_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Asset:
    """A file, both ways."""

    plain: bytes
    gzipped: bytes
    digest: str


@static.get("/static/<string:name>")
def static_file(name: str) -> BaseResponse:
    """A browser asks each time whether what it has is still right."""
    path = _FOLDER / name
    media_type = _MEDIA_TYPES.get(path.suffix)
    if media_type is None or not path.is_file():
        abort(404)
    asset = _load(path, path.stat().st_mtime_ns)
    response = Response(asset.plain, mimetype=media_type)
    response.vary.add("Accept-Encoding")
    response.cache_control.no_cache = True
    if request.accept_encodings.quality("gzip") > 0:
        response.data = asset.gzipped
        response.content_encoding = "gzip"
    # Each encoding has its own: RFC 9110, 8.8.3.3.
    response.set_etag(f"{asset.digest}-{response.content_encoding or 'plain'}")
    return response.make_conditional(request)


@lru_cache(maxsize=128)
def _load(path: Path, _modified_ns: int) -> Asset:
    """As of then: a file that has changed is read again."""
    plain = path.read_bytes()
    return Asset(plain, gzip.compress(plain, mtime=0), hashlib.sha256(plain).hexdigest()[:16])
