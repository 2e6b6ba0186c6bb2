"""What a job costs between acceptance and end: the service's queue, bare Celery, RQ, procrastinate; one worker each."""

from __future__ import annotations

import itertools
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from celery import Celery
from sqlalchemy import text

from api.auth import ensure_tenant
from bench.service.celery_app import QUEUE, TASK
from bench.service.intake import Endpoint, api_endpoint, latencies
from bench.service.site import Site
from bench.service.stamps import VARIABLE, read_stamps
from bench.service.tables import new_job
from shared.catalogue import queue_name
from shared.database import Sessions, make_engine, make_sessions
from shared.doorbell import Doorbell
from shared.ids import show_id
from shared.jobs.accept import insert_job
from shared.quotas import Quotas

_LOOK_S = 0.02
#: a worker that has just ended a job is not idle yet.
_IDLE_S = 0.1
_PATIENCE_S = 120.0

#: of one job, as Unix times.
Times = dict[str, tuple[float, float]]


class Queue(ABC):
    """One of those that are compared, with its worker running."""

    @abstractmethod
    def enqueue(self) -> str:
        """Hand one job over; returns its name."""

    @abstractmethod
    def ended(self) -> Times:
        """When each job that has ended began and ended."""


class StampedQueue(Queue):
    """One whose jobs write their times to a file."""

    def __init__(self, path: Path, send: Callable[[str], object]) -> None:
        self._path = path
        self._send = send
        self._names = itertools.count()

    def enqueue(self) -> str:
        name = str(next(self._names))
        self._send(name)
        return name

    def ended(self) -> Times:
        return read_stamps(self._path)


class OwnQueue(Queue):
    """The service's: the API's transaction and doorbell, without the request and its image."""

    def __init__(self, site: Site) -> None:
        self._settings = site.settings()
        self._engine = make_engine(self._settings)
        self._sessions = make_sessions(self._engine)
        self._doorbell = Doorbell(self._settings)
        with self._sessions.begin() as session:
            self._tenant = ensure_tenant(session, "default")

    def enqueue(self) -> str:
        with self._sessions.begin() as session:
            new = new_job(self._tenant, "double")
            job = insert_job(session, new, Quotas(self._settings.queued_jobs_max))
        name = show_id("job", job.id)
        self._doorbell.ring(queue_name("double"), name)
        return name

    def ended(self) -> Times:
        return read_jobs(self._sessions)


def read_jobs(sessions: Sessions) -> Times:
    """From the rows of the service's jobs, by the database's clock, which is this machine's."""
    statement = text("""
        SELECT id, extract(epoch FROM started_at), extract(epoch FROM finished_at)
        FROM jobs WHERE model = 'double' AND status = 'succeeded'""")
    with sessions() as session:
        return {show_id("job", row[0]): (float(row[1]), float(row[2])) for row in session.execute(statement)}


@contextmanager
def own_queue(site: Site) -> Iterator[Queue]:
    with site.running(site.program("noop", "bench.service.noop_tasks"), ready=" ready: "):
        yield OwnQueue(site)


@contextmanager
def celery_queue(site: Site) -> Iterator[Queue]:
    path = site.folder / "celery.stamps"
    arguments = ("--app", "bench.service.celery_app", "worker", "--queues", QUEUE, "--loglevel", "INFO")
    program = site.program("celery", "celery", *arguments, env=site.environment(**{VARIABLE: str(path)}))
    with site.running(program, ready=" ready."):
        app = Celery("bench", broker=site.redis_url, set_as_current=False)
        yield StampedQueue(path, lambda name: app.send_task(TASK, args=[name], queue=QUEUE, ignore_result=True))
        app.close()


@contextmanager
def rq_queue(site: Site) -> Iterator[Queue]:
    import redis
    import rq

    from bench.service.stamps import stamp

    path = site.folder / "rq.stamps"
    arguments = ("worker", "--url", site.redis_url, "bare-rq")
    program = site.program("rq", "rq.cli", *arguments, env=site.environment(**{VARIABLE: str(path)}))
    with site.running(program, ready="Listening on bare-rq"), redis.Redis.from_url(site.redis_url) as connection:
        queue = rq.Queue("bare-rq", connection=connection)
        yield StampedQueue(path, lambda name: queue.enqueue(stamp, name, result_ttl=0))


@contextmanager
def procrastinate_queue(site: Site) -> Iterator[Queue]:
    import procrastinate

    path = site.folder / "procrastinate.stamps"
    app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=site.database_url))
    with app.open():
        app.schema_manager.apply_schema()
        arguments = ("--app", "bench.service.procrastinate_app.app", "worker", "--queues", "bare")
        program = site.program(
            "procrastinate", "procrastinate", *arguments, env=site.environment(**{VARIABLE: str(path)})
        )
        with site.running(program, ready="Starting worker"):
            task = app.configure_task("stamp", queue="bare")
            yield StampedQueue(path, lambda name: task.defer(job=name))


def measure_life(queue: Queue, *, count: int) -> dict[str, float]:
    """Enqueue one after the other while the worker works; then what an idle worker takes to begin one.

    The gap is between the end of a job and the begin of the next, where that one was waiting already.
    """
    _await(queue.ended, {queue.enqueue() for _ in range(3)})
    began = time.time()
    enqueued = {}
    for _ in range(count):
        name = queue.enqueue()
        enqueued[name] = time.time()
    times = _await(queue.ended, set(enqueued))
    runs = sorted((*times[name], at) for name, at in enqueued.items())
    gaps = [after[0] - before[1] for before, after in itertools.pairwise(runs) if after[2] < before[1]]
    waits = []
    for _ in range(min(count, 50)):
        time.sleep(_IDLE_S)
        at = time.time()
        name = queue.enqueue()
        waits.append(_await(queue.ended, {name})[name][0] - at)
    return {
        "jobs_per_s": round(count / (max(ended for _, ended, _ in runs) - began), 1),
        "gap_p50_ms": round(1000 * statistics.median(gaps), 2) if gaps else 0.0,
        "enqueue_to_start_p50_ms": latencies(waits)["p50_ms"],
    }


def measure_pickup(site: Site, *, count: int) -> dict[str, dict[str, float]]:
    """From the accepted row to the job's start on an idle worker, with whole requests.

    The service's worker is the real one, with the pipeline's double; its jobs make and store a small video.
    """
    engine = make_engine(site.settings())
    sessions = make_sessions(engine)
    accepted = {"Animatic": "SELECT created_at FROM jobs WHERE id = :id"}
    accepted["bare Flask + Celery"] = "SELECT created_at FROM bare_jobs WHERE id = :id"

    def pick_up(name: str, endpoint: Endpoint, ended: Callable[[], Times]) -> float:
        caller = endpoint.caller()
        job = endpoint.post(caller)["id"]
        caller.close()
        started = _await(ended, {job})[job][0]
        with sessions() as session:
            found = session.scalar(text(accepted[name]), {"id": job.removeprefix("job_")})
        return started - float(found.timestamp())

    with site.running(site.program("worker", "worker"), ready=" ready: "), celery_queue(site) as celery:
        compared: dict[str, tuple[Endpoint, Callable[[], Times]]] = {
            "Animatic": (api_endpoint(site, "double"), lambda: read_jobs(sessions)),
            "bare Flask + Celery": (Endpoint("bare", site.bare_url, "/jobs"), celery.ended),
        }
        waits: dict[str, list[float]] = {name: [] for name in compared}
        for turn in range(count + 2):
            for name, (endpoint, ended) in compared.items():
                time.sleep(_IDLE_S)
                wait = pick_up(name, endpoint, ended)
                if turn >= 2:  # the first ones open connections
                    waits[name].append(wait)
    engine.dispose()
    return {
        "from 202 to start on an idle worker": {name: latencies(values)["p50_ms"] for name, values in waits.items()}
    }


def _await(ended: Callable[[], Times], names: set[str]) -> Times:
    deadline = time.monotonic() + _PATIENCE_S + len(names)
    while not names <= (times := ended()).keys():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(names - times.keys())} jobs have not ended")
        time.sleep(_LOOK_S)
    return times
