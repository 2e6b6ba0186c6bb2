"""Asking again while the service is away, as when it restarts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from cli.client import ApiError, ConnectionFailedError
from cli.failure import CommandError
from cli.output import note

#: how long the service may be away before we give up.
OUTAGE_LIMIT_S = 60.0
_PAUSE_S = 0.2
_PAUSE_MAX_S = 5.0

Answer = TypeVar("Answer")


def patiently(request: Callable[[], Answer], *, limit_s: float = OUTAGE_LIMIT_S) -> Answer:
    """Repeat a request that may be repeated until it is answered, with growing pauses.

    Raises:
        ApiError: the service refuses it, or still fails after `limit_s`.
        ConnectionFailedError: it was away for longer than that.
    """
    began = time.monotonic()
    pause_s = _PAUSE_S
    while True:
        try:
            return request()
        except (ApiError, ConnectionFailedError) as error:
            if not _may_pass(error) or time.monotonic() - began + pause_s > limit_s:
                raise
            if pause_s == _PAUSE_S:
                note(f"waiting for the service: {error.message}")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _PAUSE_MAX_S)


def _may_pass(error: CommandError) -> bool:
    return not isinstance(error, ApiError) or error.status >= 500 or error.status == 429
