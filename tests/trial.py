"""One trial of the fault campaign: the whole service, what its callers were told, and the judgement at the end."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import psutil
import pytest
from audit import Ledger, audit
from photos import data_uri
from sqlalchemy import and_, func, or_, select, text
from support import Process, Service, eventually

from shared.database import Sessions, make_engine, make_sessions
from shared.ids import parse_id, show_id
from shared.objects import ObjectStore, open_store
from shared.states import TERMINAL_STATUSES, DeliveryStatus, JobStatus
from shared.tables import Attempt, Job, JobEvent, WebhookDelivery
from worker.maintenance.collect import collect_orphans

#: a lease that the tests can wait for.
FAST: dict[str, Any] = {"heartbeat_s": 0.5, "lease_s": 3, "maintain_interval_s": 0.5}


class Trial:
    """Talks to the database and the store directly, whatever the service's processes must go through."""

    def __init__(self, service: Service, image: bytes) -> None:
        self.service = service
        self.image = image
        self.ledger = Ledger()
        self.engine = make_engine(service.settings)
        self.sessions: Sessions = make_sessions(self.engine)
        self.store: ObjectStore = open_store(service.settings)

    def start(
        self,
        model: str = "double",
        *,
        api: Mapping[str, Any] = MappingProxyType({}),
        maintainer: Mapping[str, Any] = MappingProxyType({}),
        worker: Mapping[str, Any] = MappingProxyType({}),
        **common: Any,
    ) -> Process:
        """All three at once; returns the worker.

        Args:
            api: settings that only the API has; so for the others.
        """
        self.service.start_maintainer(**{**common, **maintainer})
        started = self.service.start("worker", model=model, **{**common, **worker})
        self.service.await_api(self.service.start("api.serve", **{**common, **api}))
        self.service.await_worker(started)
        return started

    def submit(self, **fields: Any) -> str:
        """A job that was accepted, in the ledger."""
        return self.ledger.note(self.service.submit(self.image, **{"num_inference_steps": 2, **fields}))

    def offer(self, *, key: str | None = None, timeout_s: float = 30, url: str = "", **fields: Any) -> Any:
        """A request that may fail; what was accepted is in the ledger."""
        form = {"model": "double", "num_inference_steps": "2", **{name: str(value) for name, value in fields.items()}}
        answer = self.service.request(
            "POST",
            f"{url}/v1/jobs",
            fields={**form, "image": ("photo.jpg", self.image)},
            headers={"Idempotency-Key": key} if key else {},
            timeout=timeout_s,
        )
        return self._note(answer)

    def offer_experiment(self, *, key: str | None = None, timeout_s: float = 30, url: str = "", **fields: Any) -> Any:
        """As `offer`, an experiment of two cells."""
        body = {
            "name": "sweep",
            "model": "double",
            "images": [{"image_url": data_uri(self.image)}],
            "grid": {"motion_bucket_id": [60, 180]},
            "base": {"num_inference_steps": 2},
            **fields,
        }
        headers = {"Idempotency-Key": key} if key else {}
        return self._note(
            self.service.request("POST", f"{url}/v1/experiments", json=body, headers=headers, timeout=timeout_s)
        )

    def _note(self, answer: Any) -> Any:
        if answer.status == 202:
            self.ledger.note(answer.json())
        return answer

    def jobs(self) -> list[str]:
        """The ids of all there are."""
        with self.sessions() as session:
            return [show_id("job", job_id) for job_id in session.scalars(select(Job.id))]

    def row(self, job_id: str) -> Job:
        with self.sessions() as session:
            return session.get_one(Job, _id(job_id))

    def attempts(self, job_id: str) -> list[Attempt]:
        with self.sessions() as session:
            statement = select(Attempt).where(Attempt.job_id == _id(job_id)).order_by(Attempt.attempt)
            return list(session.scalars(statement))

    def outcomes(self, job_id: str) -> list[str | None]:
        """Of all attempts, in order; None: under way."""
        return [attempt.outcome for attempt in self.attempts(job_id)]

    def db_time(self) -> datetime:
        with self.sessions() as session:
            return session.scalars(select(func.clock_timestamp())).one()

    def reasons(self, job_id: str) -> list[str]:
        """Of all events, in order."""
        with self.sessions() as session:
            statement = select(JobEvent.reason).where(JobEvent.job_id == _id(job_id)).order_by(JobEvent.id)
            return list(session.scalars(statement))

    def count_jobs(self, *statuses: str) -> int:
        statement = select(func.count()).select_from(Job)
        if statuses:
            statement = statement.where(Job.status.in_(statuses))
        with self.sessions() as session:
            return session.scalar(statement) or 0

    def count_waiting_for(self, table: str, application: str) -> int:
        """Processes of this name that wait for a lock on the table.

        Each look is a transaction of its own: Postgres shows one transaction the same backends to its end.
        """
        statement = text(
            "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted "
            "AND relation = CAST(:table AS regclass) AND application_name = :application"
        )
        with self.sessions() as session:
            return session.scalar(statement, {"table": table, "application": application}) or 0

    def await_step(self, job_id: str, step: int = 2, *, attempt: int = 1) -> None:
        """Wait until it denoises; on a busy machine a real pipeline takes long to come so far."""
        eventually(
            lambda: (row := self.row(job_id)).attempt == attempt and row.phase and row.step >= step, within_s=120
        )

    def await_status(self, job_id: str, status: str, *, within_s: float = 40) -> Job:
        def check() -> Job | None:
            row = self.row(job_id)
            assert row.status == status or not JobStatus(row.status).is_terminal, (row.status, row.error_message)
            return row if row.status == status else None

        return eventually(check, within_s=within_s)

    def judge(self, *, within_s: float = 40) -> None:
        """Wait until every job, webhook and deletion has ended, end all processes, collect, and audit everything."""
        eventually(self._has_ended, within_s=within_s)
        self.service.stop_all()
        while collect_orphans(self.sessions, self.store, self.service.settings, stale_after_s=0):
            pass
        broken = audit(self.sessions, self.store, self.ledger)
        assert not broken, "\n".join(broken)

    def _has_ended(self) -> bool:
        with self.sessions() as session:
            is_running = Job.status.not_in(sorted(TERMINAL_STATUSES))
            is_deleted = and_(Job.delete_requested_at.is_not(None), Job.erased_at.is_(None))
            running = session.scalar(select(func.count()).select_from(Job).where(or_(is_running, is_deleted)))
            pending = session.scalar(
                select(func.count())
                .select_from(WebhookDelivery)
                .where(WebhookDelivery.status == DeliveryStatus.PENDING)
            )
        return not running and not pending


#: what may be offered, by which method, and how many jobs it is.
EITHER = pytest.mark.parametrize(
    ("offer", "num_jobs"),
    [
        pytest.param(Trial.offer, 1, id="job"),
        pytest.param(Trial.offer_experiment, 2, id="experiment", marks=pytest.mark.campaign),
    ],
)


def open_port(url: str) -> dict[str, tuple[int, ...]]:
    """The settings that let webhooks go to a receiver on this machine."""
    return {"outbound_ports": (urlsplit(url).port or 80,)}


def everyone(process: Process) -> list[psutil.Process]:
    """A process and all below it."""
    return [psutil.Process(process.popen.pid), *process.children()]


def kill(process: Process, victim: str = "all") -> None:
    """SIGKILL a worker's pool child, its parent, or both; with the parent, nothing of it is left."""
    if victim == "child":
        process.pool_child().kill()
        return
    below = process.children()
    if victim in ("both", "all"):
        for child in below:
            with suppress(psutil.NoSuchProcess):  # a tool that has just done its work
                child.kill()
    process.popen.kill()
    process.popen.wait(10)
    _, alive = psutil.wait_procs([child for child in below if not _is_tool(child)], timeout=5)
    assert alive == []


def freeze(processes: Collection[psutil.Process]) -> None:
    for process in processes:
        process.suspend()


def thaw(processes: Collection[psutil.Process]) -> None:
    for process in processes:
        process.resume()


def log_has(process: Process, text: str) -> bool:
    return text.encode() in process.log.read_bytes()


def await_log(process: Process, text: str, *, within_s: float = 20) -> float:
    """Returns the moment it was seen, by the monotonic clock."""
    eventually(lambda: log_has(process, text), within_s=within_s, every_s=0.02)
    return time.monotonic()


def _is_tool(process: psutil.Process) -> bool:
    """ffmpeg and the like end by themselves."""
    try:
        return "ffmpeg" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _id(shown: str) -> UUID:
    return parse_id("job", shown)
