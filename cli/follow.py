"""Following a job until it ends: server-sent events first, long polls where those do not get through."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.util import Timeout

from cli.client import ApiError, Client, ConnectionFailedError, path_to
from cli.failure import CommandError
from cli.patience import OUTAGE_LIMIT_S
from shared.exit_codes import ExitCode
from shared.states import JobStatus

#: the server sends something, a comment at least, more often than this.
_SILENCE_S = 45.0
_LONG_POLL_S = 2.0
_POLL_MIN_S = 0.5
_STREAMS_MAX = 3

Job = dict[str, Any]


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    name: str
    data: str
    id: str | None


def follow(client: Client, job_id: str, *, timeout_s: float | None = None) -> Iterator[Job]:
    """Each state of a job as it changes; the last one is terminal.

    Raises:
        ApiError: there is no such job, or the key is refused.
        ConnectionFailedError: the service was away for too long.
        CommandError: the timeout passed.
    """
    return _Follower(client, job_id, timeout_s).states()


class _Follower:
    def __init__(self, client: Client, job_id: str, timeout_s: float | None) -> None:
        self._client = client
        self._path = path_to("jobs", job_id)
        self._job_id = job_id
        self._last_contact = time.monotonic()
        self._timeout_s = timeout_s
        self._deadline = None if timeout_s is None else self._last_contact + timeout_s
        self._last_event_id: str | None = None

    def states(self) -> Iterator[Job]:
        failures = 0
        streams_tried = 0
        while True:
            polls = streams_tried >= _STREAMS_MAX
            try:
                for job in self._poll() if polls else self._stream():
                    failures = streams_tried = 0
                    yield job
                    if JobStatus(job["status"]).is_terminal:
                        return
                    if polls:
                        streams_tried = _STREAMS_MAX
            except (ApiError, ConnectionFailedError) as error:
                if isinstance(error, ApiError) and error.status in (401, 403, 404, 410):
                    # For the stream's route alone, 404 may come from something in between.
                    if polls or error.status != 404 or error.code is not None:
                        raise
                    streams_tried = _STREAMS_MAX
                # Else: restarting, or (429, 503) too many streams are open.
                if time.monotonic() - self._last_contact > OUTAGE_LIMIT_S:
                    raise
                failures += 1
            streams_tried += 1
            self._check_time()
            time.sleep(min(0.1 * 2 ** min(failures, 5), self._remaining_s()))

    def _stream(self) -> Iterator[Job]:
        headers = {"Accept": "text/event-stream"}
        if self._last_event_id:
            headers["Last-Event-ID"] = self._last_event_id
        timeout = Timeout(connect=5, read=max(0.1, min(_SILENCE_S, self._remaining_s())))
        response = self._client.stream(f"{self._path}/events", headers, timeout=timeout)
        with closing(response):
            for event in parse_events(self._chunks(response)):
                self._last_event_id = event.id
                if event.name == "job":
                    yield json.loads(event.data)

    def _poll(self) -> Iterator[Job]:
        wait_s = 0.0
        while True:
            asked = time.monotonic()
            job: Job = self._client.get(self._path, {"wait": wait_s})
            self._last_contact = time.monotonic()
            yield job
            self._check_time()
            # A server on which too many wait already answers at once.
            time.sleep(max(0.0, asked + _POLL_MIN_S - time.monotonic()))
            wait_s = min(_LONG_POLL_S, self._remaining_s())

    def _chunks(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        try:
            while chunk := response.read1(65_536):
                self._last_contact = time.monotonic()
                yield chunk
                self._check_time()
        except (HTTPError, OSError) as error:
            raise ConnectionFailedError(f"the stream of {self._job_id} broke: {error}") from None

    def _remaining_s(self) -> float:
        return float("inf") if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _check_time(self) -> None:
        if self._remaining_s() == 0:
            raise CommandError(
                f"{self._job_id} has not ended within {self._timeout_s:g} s (--timeout); it goes on", ExitCode.TIMED_OUT
            )


def parse_events(chunks: Iterable[bytes]) -> Iterator[Event]:
    """Cut a stream of bytes into events; comments are dropped.

    Source: WHATWG HTML, 9.2.6 "Interpreting an event stream"; a lone carriage return as line end is not read.
    """
    buffer = b""
    name, event_id = "message", None
    data: list[str] = []
    for chunk in chunks:
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            text = line.removesuffix(b"\r").decode("utf-8", errors="replace")
            if not text:
                if data:
                    yield Event(name, "\n".join(data), event_id)
                name, data = "message", []
                continue
            field, _, value = text.partition(":")
            value = value.removeprefix(" ")
            match field:
                case "event":
                    name = value
                case "data":
                    data.append(value)
                case "id":
                    event_id = value
