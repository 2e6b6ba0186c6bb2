"""Long polls and server-sent events: answering when something changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TypeVar
from uuid import UUID

from flask import Response, stream_with_context
from pydantic import BaseModel

from api.services import current_tenant, services
from api.streams import FALLBACK_S
from shared.errors import NotFoundError, RateLimitedError, TransientError, UnauthorizedError

Resource = TypeVar("Resource", bound=BaseModel)

#: a comment line now and then keeps proxies from closing a quiet stream.
_KEEP_ALIVE_S = 15.0


def stream_schema(event: str, resource: str) -> dict[str, object]:
    """The answer of a stream, for the OpenAPI document."""
    schema = {
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": {"const": event},
            "data": {"type": "string", "contentMediaType": "application/json", "description": f"{resource}."},
        },
    }
    return {"description": "OK", "content": {"text/event-stream": {"schema": schema}}}


def wait_for_end(
    subject: UUID, read: Callable[[], Resource], is_over: Callable[[Resource], bool], wait_s: float
) -> Resource:
    """The resource when it is over, when the time is, or when the server stops; at once where all places are taken.

    Args:
        subject: the id of what is waited for.
        read: reads it afresh, for the same caller.
    """
    resource = read()
    if not wait_s or is_over(resource):
        return resource
    with ExitStack() as stack:
        try:
            stack.enter_context(services().places.take(current_tenant()))
        except RateLimitedError:
            return resource  # poll, then
        waiting = stack.enter_context(services().streams.subscribe(subject))
        end = time.monotonic() + wait_s
        resource = read()
        while not is_over(resource) and (remaining := end - time.monotonic()) > 0:
            goes_on = waiting.wait(remaining)
            resource = read()
            if not goes_on:
                break
    return resource


def stream(
    event: str,
    subject: UUID,
    read: Callable[[], Resource],
    is_over: Callable[[Resource], bool],
    *,
    pause_s: float = 0.0,
) -> Response:
    """Server-sent events: the whole resource now and at each change; the stream ends when it is over.

    Args:
        pause_s: between two events, for what changes often and costs more to read.

    Raises:
        NotFoundError: there is no such thing.
        RateLimitedError: too many streams are open.
    """
    read()
    stack = ExitStack()
    stack.enter_context(services().places.take(current_tenant()))
    waiting = stack.enter_context(services().streams.subscribe(subject))

    def events() -> Iterator[str]:
        with stack:
            yield "retry: 2000\n\n"
            last = ""
            quiet_since = time.monotonic()
            while True:
                try:
                    resource = read()
                except (NotFoundError, TransientError, UnauthorizedError):
                    return  # deleted, Postgres is away, or the key was revoked: the client connects again, and sees
                if (data := resource.model_dump_json()) != last:
                    last, quiet_since = data, time.monotonic()
                    yield f"event: {event}\ndata: {data}\n\n"
                    if not is_over(resource):
                        time.sleep(pause_s)
                elif time.monotonic() - quiet_since > _KEEP_ALIVE_S:
                    quiet_since = time.monotonic()
                    yield ": keep-alive\n\n"
                if is_over(resource) or not waiting.wait(FALLBACK_S):
                    return

    response = Response(stream_with_context(events()), content_type="text/event-stream")
    response.headers.update({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
    response.call_on_close(stack.close)
    return response
