"""Metrics in Prometheus' format. Counts of jobs come from Postgres, so every API process says the same."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from datetime import datetime, timedelta

from flask import Flask, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from sqlalchemy import ColumnElement, Float, cast, func, select
from sqlalchemy.orm import Session

from shared.catalogue import queue_name
from shared.database import Sessions, db_now, translated_errors
from shared.doorbell import Doorbell
from shared.errors import QueueError
from shared.jobs.claim import claimable
from shared.states import AttemptOutcome, DeliveryStatus, JobStatus
from shared.tables import Attempt, Job, WebhookDelivery, Worker

_SEEN = timedelta(minutes=1)
_RECENT = timedelta(hours=1)
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
        registry.register(_Snapshot([*_read_gauges(session), *_read_doorbell_gauges(session, doorbell)]))
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


def _read_gauges(session: Session) -> Iterable[Metric]:
    """Each reads what is waiting, running or recent by an index: the cost does not grow with history."""
    jobs = GaugeMetricFamily(
        "animatic_jobs", "Jobs that have not ended, by model and status.", labels=["model", "status"]
    )
    queued_for = GaugeMetricFamily(
        "animatic_oldest_queued_seconds",
        "Age of the oldest job that is queued, whatever it waits for.",
        labels=["model"],
    )
    for status in (JobStatus.QUEUED, JobStatus.RUNNING):
        counts = select(Job.model, func.count(), _seconds_since(func.min(Job.created_at)))
        for model, count, age_s in session.execute(counts.where(Job.status == status).group_by(Job.model)):
            jobs.add_metric([model, status], count)
            if status is JobStatus.QUEUED:
                queued_for.add_metric([model], age_s)
    yield jobs
    yield queued_for

    ready = GaugeMetricFamily("animatic_jobs_claimable", "Jobs that could start now: scale by this.", labels=["model"])
    oldest = GaugeMetricFamily("animatic_oldest_claimable_seconds", "Age of the oldest of these.", labels=["model"])
    claimable_jobs = (
        select(Job.model, func.count(), _seconds_since(func.min(Job.created_at))).where(claimable()).group_by(Job.model)
    )
    for model, count, age_s in session.execute(claimable_jobs):
        ready.add_metric([model], count)
        oldest.add_metric([model], age_s)
    yield ready
    yield oldest

    workers = GaugeMetricFamily("animatic_workers", "Workers seen in the last minute.", labels=["model", "state"])
    busy = Worker.job_id.is_not(None)
    seen = session.execute(
        select(Worker.model, busy, func.count())
        .where(Worker.last_seen_at > db_now() - _SEEN)
        .group_by(Worker.model, busy)
    )
    for model, is_busy, count in seen:
        workers.add_metric([model, "busy" if is_busy else "idle"], count)
    yield workers

    busy_s = CounterMetricFamily(
        "animatic_device_busy_seconds",
        "How long a worker's pipeline has worked; its rate is the share of the time that the device was busy.",
        labels=["model", "worker"],
    )
    present = select(Worker.model, Worker.hostname, Worker.pid, Worker.busy_s).where(
        Worker.ready, Worker.last_seen_at > db_now() - _SEEN
    )
    for model, hostname, pid, seconds in session.execute(present):
        busy_s.add_metric([model, f"{hostname}:{pid}"], seconds)
    yield busy_s

    attempts = GaugeMetricFamily(
        "animatic_attempts_ended", "Attempts that ended in the last hour, by outcome.", labels=["outcome"]
    )
    ended = select(Attempt.outcome, func.count()).where(Attempt.ended_at > db_now() - _RECENT).group_by(Attempt.outcome)
    for outcome, count in session.execute(ended):
        attempts.add_metric([str(outcome)], count)
    yield attempts
    yield GaugeMetricFamily(
        "animatic_lease_expiries",
        "Attempts of the last hour whose lease ran out.",
        value=sum(sample.value for sample in attempts.samples if sample.labels["outcome"] == AttemptOutcome.LOST),
    )
    yield GaugeMetricFamily(
        "animatic_stale_finishes",
        "Attempts whose worker came back in the last hour after their lease had run out, and was refused.",
        value=session.scalar(select(func.count()).where(Attempt.stale_at > db_now() - _RECENT)) or 0,
    )
    yield from _read_delivery_gauges(session)


def _read_doorbell_gauges(session: Session, doorbell: Doorbell) -> Iterable[Metric]:
    """Claimable jobs that no message stands for: what the next sweep will ring for."""
    deficit = GaugeMetricFamily(
        "animatic_doorbell_deficit", "Claimable jobs minus messages in the model's queue.", labels=["model"]
    )
    waiting = select(Job.model, func.count()).where(claimable()).group_by(Job.model)
    is_answering = True
    try:
        doorbell.check()
        for model, count in session.execute(waiting):
            deficit.add_metric([model], max(0, count - doorbell.count_waiting(queue_name(model))))
    except QueueError:
        is_answering = False
    if is_answering:
        yield deficit
    yield GaugeMetricFamily("animatic_redis_up", "Whether Redis answers this API process.", value=int(is_answering))


def _read_delivery_gauges(session: Session) -> Iterable[Metric]:
    pending = WebhookDelivery.status == DeliveryStatus.PENDING
    yield GaugeMetricFamily(
        "animatic_webhooks_pending",
        "Webhooks that are not delivered yet.",
        value=session.scalar(select(func.count()).where(pending)) or 0,
    )
    overdue = select(_seconds_since(func.min(WebhookDelivery.next_try_at))).where(
        pending, WebhookDelivery.next_try_at < db_now()
    )
    yield GaugeMetricFamily(
        "animatic_webhook_lag_seconds",
        "How long the longest-due webhook is overdue.",
        value=session.scalar(overdue) or 0,
    )
    ended = GaugeMetricFamily(
        "animatic_webhooks_ended", "Webhooks that ended in the last hour, by status.", labels=["status"]
    )
    recent = (
        select(WebhookDelivery.status, func.count())
        .where(WebhookDelivery.ended_at > db_now() - _RECENT)
        .group_by(WebhookDelivery.status)
    )
    for status, count in session.execute(recent):
        ended.add_metric([status], count)
    yield ended


def _seconds_since(instant: ColumnElement[datetime]) -> ColumnElement[float]:
    return cast(func.extract("epoch", db_now() - instant), Float)
