"""Metrics in Prometheus' format: the API process' own requests, and what `api.gauges` reads from Postgres."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from flask import Flask, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from api.gauges import read_gauges
from shared.database import Sessions, translated_errors
from shared.doorbell import Doorbell

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

REQUESTS = Counter("animatic_http_requests_total", "HTTP requests.", ["method", "route", "status"])
LATENCY = Histogram("animatic_http_request_seconds", "Time to the first byte of the answer.", ["method", "route"])


def count_requests(app: Flask) -> None:
    """Count and time every request, by route rather than by path."""

    @app.before_request
    def start() -> None:
        g.started = time.perf_counter()

    @app.after_request
    def end(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule else "(none)"
        # Callers invent methods; each would be a series of its own, for ever.
        method = request.method if request.method in _METHODS else "OTHER"
        REQUESTS.labels(method, route, response.status_code).inc()
        if "started" in g:
            LATENCY.labels(method, route).observe(time.perf_counter() - g.started)
        return response


def render_metrics(sessions: Sessions, doorbell: Doorbell) -> tuple[bytes, str]:
    """The page, and its content type. Redis may be away: that is one of the metrics.

    Raises:
        DatabaseError: Postgres is not answering.
    """
    registry = CollectorRegistry()
    with translated_errors(), sessions() as session:
        registry.register(_Snapshot(list(read_gauges(session, doorbell))))
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST
    return generate_latest(registry) + generate_latest(REGISTRY), CONTENT_TYPE_LATEST


class _Snapshot:
    """Metrics that were read already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics
