"""The judgement over a whole installation: promises I1 to I5 of docs/design.md, from the database, the object store and
what callers were told.

`audit` only reads; run it when nothing runs any more. Objects of losing attempts must have been collected before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from experiment_audit import check_experiments
from sqlalchemy import select

from shared.database import Sessions
from shared.ids import parse_id, show_id
from shared.jobs.resource import job_prefix
from shared.objects import ObjectMissingError, ObjectStore
from shared.states import AttemptOutcome, DeliveryStatus, JobStatus
from shared.tables import Attempt, Input, Job, JobEvent, WebhookDelivery

#: how an attempt may have ended before another one began.
_GIVEN_BACK = {AttemptOutcome.LOST, AttemptOutcome.RETRIED, AttemptOutcome.RELEASED}
_LAST_OUTCOMES = {
    JobStatus.SUCCEEDED: {AttemptOutcome.SUCCEEDED},
    JobStatus.FAILED: {AttemptOutcome.FAILED, AttemptOutcome.LOST},
    JobStatus.CANCELED: {AttemptOutcome.CANCELED, *_GIVEN_BACK},
}


@dataclass
class Ledger:
    """What callers were told: the ids of all 202s. Kept by the client, so that the database cannot forget for it."""

    accepted: set[str] = field(default_factory=set)
    experiments: set[str] = field(default_factory=set)

    def note(self, made: dict[str, Any]) -> str:
        """Write down an accepted job or experiment; returns its id."""
        (self.experiments if made["object"] == "experiment" else self.accepted).add(made["id"])
        return str(made["id"])


@dataclass
class _Record:
    """All rows about one job."""

    job: Job
    attempts: list[Attempt] = field(default_factory=list)
    events: list[JobEvent] = field(default_factory=list)
    deliveries: list[WebhookDelivery] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)


def audit(sessions: Sessions, store: ObjectStore, ledger: Ledger, *, deliveries_ended: bool = True) -> list[str]:
    """Every promise that is broken, as one sentence each; empty when all hold.

    Args:
        deliveries_ended: whether a webhook that is still to be tried is one of them.
    """
    records, inputs = _read(sessions)
    broken = check_experiments(sessions, ledger.experiments, deliveries_ended=deliveries_ended)
    broken += [f"{job}: accepted, and not in the database" for job in ledger.accepted if _id(job) not in records]
    strays = _sort_keys(store, records)
    broken += [f"{key}: an object of no job" for key in strays]
    present = set(store.list_keys("inputs/"))
    for record in records.values():
        name = show_id("job", record.job.id)
        if not JobStatus(record.job.status).is_terminal:
            broken.append(f"{name}: still {record.job.status}")
            continue
        problems = [*_check_events(record), *_check_attempts(record), *_check_deliveries(record, deliveries_ended)]
        if record.job.delete_requested_at is not None or record.job.expired_at is not None:
            problems += _check_gone(record)
        else:
            problems += _check_result(record, store)
            if inputs[record.job.input_id] not in present:
                problems.append(f"its image {inputs[record.job.input_id]} is gone")
        broken += [f"{name}: {problem}" for problem in problems]
    return broken


def _read(sessions: Sessions) -> tuple[dict[UUID, _Record], dict[UUID | None, str]]:
    with sessions() as session:
        records = {job.id: _Record(job) for job in session.scalars(select(Job))}
        for attempt in session.scalars(select(Attempt).order_by(Attempt.attempt)):
            records[attempt.job_id].attempts.append(attempt)
        for event in session.scalars(select(JobEvent).order_by(JobEvent.id)):
            records[event.job_id].events.append(event)
        for delivery in session.scalars(select(WebhookDelivery).where(WebhookDelivery.job_id.is_not(None))):
            records[delivery.job_id].deliveries.append(delivery)
        return records, {image.id: image.object_key for image in session.scalars(select(Input))}


def _sort_keys(store: ObjectStore, records: dict[UUID, _Record]) -> list[str]:
    """Give each job its objects; returns those that belong to none."""
    by_prefix = {job_prefix(job): record for job, record in records.items()}
    strays = []
    for key in store.list_keys("jobs/"):
        record = by_prefix.get("/".join(key.split("/")[:2]) + "/")
        if record is None:
            strays.append(key)
        else:
            record.keys.add(key)
    return strays


def _check_events(record: _Record) -> Iterator[str]:
    """Accepted, claimed, given back, claimed, … ended: once each, in this order (I1, I2)."""
    statuses = [(event.status, event.attempt) for event in record.events]
    terminal = [event for event in record.events if JobStatus(event.status).is_terminal]
    if len(terminal) != 1:
        yield f"{len(terminal)} terminal events"
    expected: list[tuple[str, int]] = [(JobStatus.QUEUED, 0)]
    for attempt in record.attempts:
        expected.append((JobStatus.RUNNING, attempt.attempt))
        if attempt.outcome in _GIVEN_BACK and attempt is not record.attempts[-1]:
            expected.append((JobStatus.QUEUED, attempt.attempt))
    expected.append((JobStatus(record.job.status), record.job.attempt))
    # A last attempt that was given back, and then the job ended in the queue.
    waited = [*expected[:-1], (JobStatus.QUEUED, record.job.attempt), expected[-1]]
    if statuses not in (expected, waited):
        yield f"its events are {[f'{status} {attempt}' for status, attempt in statuses]}, its attempts {_show(record)}"


def _check_attempts(record: _Record) -> Iterator[str]:
    """Numbered without a gap, each with an end, and counted in the job's row (I3)."""
    job, attempts = record.job, record.attempts
    if [attempt.attempt for attempt in attempts] != list(range(1, job.attempt + 1)):
        yield f"attempt {job.attempt}, and its attempts are {_show(record)}"
    outcomes = [attempt.outcome for attempt in attempts]
    if not all(attempt.outcome and attempt.ended_at for attempt in attempts):
        yield f"an attempt without an end: {_show(record)}"
    elif not set(outcomes[:-1]) <= _GIVEN_BACK or (outcomes and outcomes[-1] not in _LAST_OUTCOMES[job.status]):
        yield f"{job.status} after {_show(record)}"
    excused = sum(event.reason == "collateral_loss" for event in record.events)
    if excused > 1:
        yield f"{excused} losses that are not counted"
    for outcome, counted in (
        (AttemptOutcome.LOST, job.losses + excused),
        (AttemptOutcome.RETRIED, job.transient_failures),
    ):
        if outcomes.count(outcome) != counted:
            yield f"counts {counted} {outcome} attempts of {_show(record)}"
    if job.status == JobStatus.SUCCEEDED and not attempts:
        yield "succeeded without an attempt"


def _check_result(record: _Record, store: ObjectStore) -> Iterator[str]:
    """What the row says is what the winning attempt's manifest says, and what lies in the store (I4)."""
    job = record.job
    if job.status != JobStatus.SUCCEEDED:
        if job.result is not None:
            yield f"{job.status}, with a result"
        yield from (f"{job.status}, with an object {key}" for key in record.keys)
        return
    result = job.result or {}
    prefix = f"{job_prefix(job.id)}attempts/{job.attempt}/"
    files = {file["key"]: file for file in (result["video"], *result["frames"], result["manifest"])}
    yield from (f"an object of a losing attempt: {key}" for key in record.keys - set(files))
    yield from (f"its result is not of attempt {job.attempt}: {key}" for key in files if not key.startswith(prefix))
    for key, file in files.items():
        try:
            data = store.get(key)
        except ObjectMissingError:
            yield f"no object {key}"
            continue
        if (len(data), hashlib.sha256(data).hexdigest()) != (file["size_bytes"], file["sha256"]):
            yield f"the checksum of {key} is not that of its row"
        if key == result["manifest"]["key"]:
            yield from _check_manifest(record, prefix, json.loads(data), files)


def _check_gone(record: _Record) -> Iterator[str]:
    """A deleted job has no content and no object any more, an expired one no result."""
    job = record.job
    if job.delete_requested_at is not None and job.erased_at is None:
        yield "deleted, and not erased"
    elif job.erased_at is not None and (job.params or job.labels or job.input_id or job.image_name or job.grid_axes):
        yield "erased, with content"
    if job.result is not None:
        yield "its result is gone, and its record names it"
    yield from (f"its result is gone, and there is an object {key}" for key in record.keys)


def _check_manifest(
    record: _Record, prefix: str, manifest: dict[str, Any], files: dict[str, dict[str, Any]]
) -> Iterator[str]:
    if (manifest["job_id"], manifest["attempt"]) != (show_id("job", record.job.id), record.job.attempt):
        yield f"its manifest is of {manifest['job_id']} attempt {manifest['attempt']}"
    if manifest["params"] != record.job.params:
        yield "its manifest has other parameters"
    listed = {prefix + file["name"]: file["sha256"] for file in manifest["files"]}
    stored = {key: file["sha256"] for key, file in files.items() if not key.endswith("/manifest.json")}
    if listed != stored:
        yield f"its manifest lists {sorted(listed)}, its row {sorted(stored)}"


def _check_deliveries(record: _Record, ended: bool) -> Iterator[str]:
    """One message for a job that has a webhook, about its one end (I5)."""
    job = record.job
    if job.erased_at is not None:
        expected: Iterable[int] = (0, 1)  # the row no longer says whether it had one
    else:
        expected = (int(job.webhook_url is not None),)
    if len(record.deliveries) not in expected:
        yield f"{len(record.deliveries)} deliveries"
    for delivery in record.deliveries:
        if delivery.event_type != f"job.{job.status}":
            yield f"{job.status}, and its message is {delivery.event_type}"
        if job.erased_at is None and json.loads(delivery.body)["data"]["status"] != job.status:
            yield "its message has another status in its body"
        if ended and delivery.status == DeliveryStatus.PENDING:
            yield f"its message is still to be delivered, after {delivery.tries} tries"
        if delivery.status == DeliveryStatus.DELIVERED and not delivery.tries:
            yield "its message counts as delivered, and was never sent"


def _show(record: _Record) -> list[str]:
    return [f"{attempt.attempt} {attempt.outcome}" for attempt in record.attempts]


def _id(shown: str) -> UUID:
    return parse_id("job", shown)
