"""Ids: UUIDv7 (RFC 9562), shown with a prefix that says of what: `job_0192f0c1…`."""

from __future__ import annotations

import re
from typing import Literal
from uuid import UUID

import uuid_utils.compat

from shared.errors import NotFoundError

Prefix = Literal["job", "exp", "cell", "inp", "evt", "key", "wrk"]

_HEX = re.compile(r"[0-9a-f]{32}")


def new_id() -> UUID:
    """A new UUIDv7; ids made later sort later, to the millisecond."""
    return uuid_utils.compat.uuid7()


def show_id(prefix: Prefix, value: UUID) -> str:
    return f"{prefix}_{value.hex}"


def parse_id(prefix: Prefix, text: str) -> UUID:
    """Read an id as `show_id` wrote it.

    Raises:
        NotFoundError: the text is not such an id, so nothing can have it.
    """
    head, _, tail = text.partition("_")
    if head != prefix or not _HEX.fullmatch(tail):
        raise NotFoundError(f"ids of this kind look like {prefix}_ and 32 hex digits, got {text[:80]!r}")
    return UUID(tail)
