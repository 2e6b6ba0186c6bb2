"""What a request costs: POST of a photo and GET of a job, against the bare endpoint, in turn."""

from __future__ import annotations

import http.client
import itertools
import json
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from urllib3.filepost import encode_multipart_formdata

from bench.service.site import PHOTO, Site

_FIELDS = {"num_frames": "14", "motion_bucket_id": "180", "seed": "42"}
_CLIENTS = 8


class Caller:
    """One connection that is kept open, as a client's pool does; the request's body is made beforehand."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        self._headers = headers

    def send(self, method: str, path: str, body: bytes | None = None, media_type: str = "") -> Any:
        """The parsed answer.

        Raises:
            RuntimeError: the status is not 2xx.
        """
        headers = {**self._headers, "Content-Type": media_type} if body is not None else self._headers
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        data = answer.read()
        if not 200 <= answer.status < 300:
            raise RuntimeError(f"{method} {path} answered {answer.status}: {data[:300].decode(errors='replace')}")
        return json.loads(data)

    def close(self) -> None:
        self._connection.close()


@dataclass
class Endpoint:
    """One of those that are compared."""

    name: str
    url: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    model: str = "svd"
    times_s: list[float] = field(default_factory=list)
    #: requests answered, and the time that took, with several callers at once.
    answered: int = 0
    busy_s: float = 0.0

    def caller(self) -> Caller:
        return Caller(self.url, self.headers)

    def post(self, caller: Caller) -> Any:
        return caller.send("POST", self.path, *_photo(self.model))

    def summary(self) -> dict[str, float]:
        return {**latencies(self.times_s), "per_s": round(self.answered / self.busy_s, 1)}


def api_endpoint(site: Site, model: str = "svd") -> Endpoint:
    return Endpoint("Animatic", site.api_url, "/v1/jobs", {"Authorization": f"Bearer {site.api_key}"}, model)


def endpoints(site: Site) -> list[Endpoint]:
    return [
        api_endpoint(site),
        Endpoint("bare Flask, image as PNG", site.bare_url, "/jobs-png"),
        Endpoint("bare Flask, file as it came", site.bare_url, "/jobs"),
    ]


def latencies(times_s: Sequence[float]) -> dict[str, float]:
    """The median, and the value that 99 of 100 do not exceed, ms."""
    ordered = sorted(times_s)
    return {
        "p50_ms": round(1000 * statistics.median(ordered), 2),
        "p99_ms": round(1000 * ordered[math.ceil(0.99 * len(ordered)) - 1], 2),
    }


def measure_accept(site: Site, *, count: int, window_s: float) -> dict[str, dict[str, float]]:
    """POST of a photo: one caller after the other, then several at once.

    Args:
        count: requests of one caller, for each endpoint.
        window_s: how long several callers go on, for each endpoint.
    """
    return _measure(endpoints(site), count, window_s, lambda endpoint: endpoint.post)


def measure_poll(site: Site, *, count: int, window_s: float) -> dict[str, dict[str, float]]:
    """GET of a queued job."""
    compared = [endpoint for endpoint in endpoints(site) if not endpoint.path.endswith("-png")]

    def poll(endpoint: Endpoint) -> Callable[[Caller], Any]:
        caller = endpoint.caller()
        path = f"{endpoint.path}/{endpoint.post(caller)['id']}"
        caller.close()
        return lambda caller: caller.send("GET", path)

    return _measure(compared, count, window_s, poll)


def _measure(
    compared: list[Endpoint], count: int, window_s: float, make: Callable[[Endpoint], Callable[[Caller], Any]]
) -> dict[str, dict[str, float]]:
    requests = [(endpoint, make(endpoint), endpoint.caller()) for endpoint in compared]
    for _, request, caller in requests * 5:
        request(caller)
    for (endpoint, request, caller), _ in zip(_turns(requests), range(count * len(requests)), strict=False):
        started = time.perf_counter()
        request(caller)
        endpoint.times_s.append(time.perf_counter() - started)
    for _, _, caller in requests:
        caller.close()
    windows = 4
    for (endpoint, request, _), _ in zip(_turns(requests), range(windows * len(requests)), strict=False):
        _run_window(endpoint, request, window_s / windows)
    return {endpoint.name: endpoint.summary() for endpoint in compared}


def _turns(requests: list[Any]) -> Iterator[Any]:
    """All in turn, forth and back, so that none always goes first."""
    return itertools.chain.from_iterable(requests if number % 2 else reversed(requests) for number in itertools.count())


def _run_window(endpoint: Endpoint, request: Callable[[Caller], Any], window_s: float) -> None:
    counts = [0] * _CLIENTS
    started = time.perf_counter()

    def run(number: int) -> None:
        caller = endpoint.caller()
        while time.perf_counter() - started < window_s:
            request(caller)
            counts[number] += 1
        caller.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    endpoint.busy_s += time.perf_counter() - started
    endpoint.answered += sum(counts)


def _photo(model: str) -> tuple[bytes, str]:
    if model not in _bodies:
        size = {"width": "64", "height": "64", "num_inference_steps": "1"} if model == "double" else {}
        _bodies[model] = encode_multipart_formdata(
            {**_FIELDS, **size, "model": model, "image": ("photo.jpg", PHOTO.read_bytes(), "image/jpeg")}
        )
    return _bodies[model]


_bodies: dict[str, tuple[bytes, str]] = {}
