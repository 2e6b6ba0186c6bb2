"""What /metrics says of the whole service: from Postgres, so every API process says the same."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from sqlalchemy import ColumnElement, CompoundSelect, Float, Select, cast, func, select, union_all
from sqlalchemy.orm import Session

from shared.catalogue import queue_name
from shared.database import db_now
from shared.doorbell import Doorbell
from shared.errors import QueueError
from shared.jobs.claim import claimable
from shared.states import AttemptOutcome, DeliveryStatus, JobStatus
from shared.tables import Attempt, Experiment, Job, WebhookDelivery, Worker

_SEEN = timedelta(minutes=1)
_RECENT = timedelta(hours=1)


def read_gauges(session: Session, doorbell: Doorbell) -> Iterable[Metric]:
    """Each reads what is waiting, running or recent by an index: the cost does not grow with history."""
    yield from _read_job_gauges(session)
    yield from _read_experiment_gauges(session)
    yield from _read_worker_gauges(session)
    yield from _read_attempt_gauges(session)
    yield from _read_delivery_gauges(session)
    yield from _read_doorbell_gauges(session, doorbell)


def _read_job_gauges(session: Session) -> Iterable[Metric]:
    jobs = GaugeMetricFamily(
        "animatic_jobs", "Jobs that have not ended, by model and status.", labels=["model", "status"]
    )
    queued_for = GaugeMetricFamily(
        "animatic_oldest_queued_seconds",
        "Age of the oldest job that is queued, whatever it waits for.",
        labels=["model"],
    )
    for status, of_status in ((JobStatus.QUEUED, _queued()), (JobStatus.RUNNING, _running())):
        each = of_status.subquery()
        counts = select(each.c.model, func.count(), _seconds_since(func.min(each.c.created_at)))
        for model, count, age_s in session.execute(counts.group_by(each.c.model)):
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


def _running() -> Select[str, datetime]:
    return select(Job.model, Job.created_at).where(Job.status == JobStatus.RUNNING)


def _queued() -> CompoundSelect[str, datetime]:
    """In two parts, for which there are indexes; for the whole there is none."""
    queued = select(Job.model, Job.created_at).where(Job.status == JobStatus.QUEUED)
    # Only a paused experiment holds jobs.
    paused = select(Experiment.id).where(Experiment.finished_at.is_(None), Experiment.held)
    return union_all(queued.where(~Job.held), queued.where(Job.held, Job.experiment_id.in_(paused)))


def _read_experiment_gauges(session: Session) -> Iterable[Metric]:
    experiments = GaugeMetricFamily(
        "animatic_experiments", "Experiments that have not finished, by model and status.", labels=["model", "status"]
    )
    oldest = GaugeMetricFamily(
        "animatic_oldest_experiment_seconds",
        "Age of the oldest experiment that has not finished.",
        labels=["model", "status"],
    )
    cells = GaugeMetricFamily(
        "animatic_cells_waiting",
        "Queued jobs of experiments, by model and the experiment's status.",
        labels=["model", "status"],
    )
    # The jobs of each experiment by itself, which is one look into an index, whatever else has been.
    waiting = (
        select(func.count())
        .where(Job.experiment_id == Experiment.id, Job.status == JobStatus.QUEUED)
        .correlate(Experiment)
        .scalar_subquery()
    )
    unfinished = (
        select(
            Experiment.model,
            Experiment.held,
            func.count(),
            _seconds_since(func.min(Experiment.created_at)),
            func.sum(waiting),
        )
        .where(Experiment.finished_at.is_(None))
        .group_by(Experiment.model, Experiment.held)
    )
    for model, held, count, age_s, queued in session.execute(unfinished):
        status = "paused" if held else "running"
        experiments.add_metric([model, status], count)
        oldest.add_metric([model, status], age_s)
        cells.add_metric([model, status], int(queued))
    yield from (experiments, oldest, cells)


def _read_worker_gauges(session: Session) -> Iterable[Metric]:
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


def _read_attempt_gauges(session: Session) -> Iterable[Metric]:
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
