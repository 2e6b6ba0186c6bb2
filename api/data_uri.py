"""Images that come inside a URL.

Source: RFC 2397, The "data" URL scheme.
"""

from __future__ import annotations

import base64
import re
from urllib.parse import unquote

from shared.errors import InvalidInputError

_HEAD = re.compile(r"data:image/[a-z0-9.+-]+(?:;[a-z0-9-]+=[a-z0-9.-]+)*;base64,", re.IGNORECASE)


def is_data_uri(url: str) -> bool:
    """Whether `decode_data_uri` is the one to read this."""
    return url[:5].lower() == "data:"


def decode_data_uri(uri: str, max_bytes: int, *, field: str = "image_url") -> bytes:
    """The bytes of `data:image/…;base64,…`.

    The media type is not trusted; what the bytes are is for `accept_image` to say.

    Raises:
        InvalidInputError: it has another form, or holds more than `max_bytes`.
    """
    head = _HEAD.match(uri)
    if head is None:
        raise InvalidInputError(f"{field} must be of the form data:image/…;base64,…, got {uri[:40]!r}", field=field)
    payload = uri[head.end() :]
    if "%" in payload:
        payload = unquote(payload)
    if len(payload) // 4 * 3 > max_bytes + 2:
        raise InvalidInputError(
            f"{field} must hold at most {max_bytes} bytes, got about {len(payload) // 4 * 3}", field=field
        )
    try:
        # Browsers leave the padding out at times.
        data = base64.b64decode(payload + "=" * (-len(payload) % 4), validate=True)
    except ValueError:
        raise InvalidInputError(f"{field} must hold valid base64, got {uri[:40]!r}…", field=field) from None
    if len(data) > max_bytes:
        raise InvalidInputError(f"{field} must hold at most {max_bytes} bytes, got {len(data)}", field=field)
    return data
