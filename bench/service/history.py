"""Whether a step of a job's life costs more the more jobs have ended, and by which plan Postgres takes it."""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from sqlalchemy import Engine, and_, event
from sqlalchemy.orm import Session

from api.pages import fetch_page
from api.schemas.jobs import JobsQuery
from bench.service.site import ROOT
from bench.service.tables import MODEL, Database, new_job
from shared.doorbell import Doorbell
from shared.ids import new_id
from shared.jobs.accept import insert_job
from shared.jobs.claim import claim_job
from shared.quotas import Quotas
from shared.tables import Job
from worker.maintenance.reaper import Reaper
from worker.maintenance.sweep import ring_for_deficit

Step = Callable[[], object]
Claimer = subprocess.Popen[str]

_WINDOWS = 4


def claim_next(session: Session, settings: Any) -> object:
    return claim_job(
        session,
        model=MODEL,
        worker_id=new_id(),
        lease_s=settings.lease_s,
        attempt_deadline_s=settings.attempt_deadline_s,
        public_url=settings.public_url,
    )


class NobodyRings(Doorbell):
    """Counts in vain: as if each job had its message already."""

    def __init__(self) -> None: ...

    def count_waiting(self, queue: str) -> int:
        return sys.maxsize


def make_steps(database: Database) -> dict[str, Step]:
    """One round each, by the functions that the service itself calls."""
    sessions, settings, tenant = database.sessions, database.settings, database.tenant
    reaper = Reaper(sessions, settings)
    bell = NobodyRings()
    listed = and_(Job.tenant_id == tenant, Job.delete_requested_at.is_(None))

    def in_transaction(work: Callable[[Session], object]) -> Step:
        def step() -> None:
            with sessions.begin() as session:
                work(session)

        return step

    return {
        "accept": in_transaction(lambda session: insert_job(session, new_job(database.caller), Quotas(1_000))),
        "claim": in_transaction(lambda session: claim_next(session, settings)),
        "sweep": lambda: ring_for_deficit(sessions, bell),
        "reap": reaper.reap,
        "list": in_transaction(lambda session: fetch_page(session, Job, listed, JobsQuery(), "job")),
    }


def measure_steps(databases: list[Database], rounds: int) -> None:
    """Round by round, each step on each database, forth and back; the times are left in the databases."""
    made = {id(database): make_steps(database) for database in databases}
    for number in range(rounds + 5):
        for name in made[id(databases[0])]:
            for database in databases if number % 2 else reversed(databases):
                started = time.perf_counter()
                made[id(database)][name]()
                if number >= 5:  # the first ones open connections
                    database.times_ms[name].append(1000 * (time.perf_counter() - started))


def medians(database: Database) -> dict[str, float]:
    return {name: round(statistics.median(times), 2) for name, times in database.times_ms.items()}


def median_ratios(base: Database, other: Database) -> dict[str, float]:
    """Of the times of the same round, the median of the ratios: a slow moment of the machine strikes both."""
    return {
        name: round(statistics.median(b / a for a, b in zip(times, other.times_ms[name], strict=True)), 2)
        for name, times in base.times_ms.items()
    }


def count_claims(databases: list[Database], counts: list[int], seconds: float) -> dict[int, dict[int, float]]:
    """Claims per second by rows and by number of workers, which are processes of their own.

    Args:
        counts: how many workers claim at once.
        seconds: for each database and number of workers, in windows in turn: a slow moment strikes all alike.
    """
    rates: dict[int, dict[int, float]] = {database.rows: {} for database in databases}
    with _claimers(max(counts)) as claimers:
        for database in databases:  # the first claim opens a connection
            _count(claimers, database, 0)
        for workers in counts:
            found = {database.rows: 0 for database in databases}
            for turn in range(_WINDOWS):
                for database in databases if turn % 2 else reversed(databases):
                    found[database.rows] += _count(claimers[:workers], database, seconds / _WINDOWS)
            for rows, claims in found.items():
                rates[rows][workers] = round(claims / seconds, 1)
    return rates


@contextmanager
def _claimers(count: int) -> Iterator[list[Claimer]]:
    command = [sys.executable, "-m", "bench.service.claimer"]
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, bufsize=1)
            )
            for _ in range(count)
        ]


def _count(claimers: list[Claimer], database: Database, seconds: float) -> int:
    """The claims of all of them at once."""
    url = database.settings.database_url.get_secret_value()
    for claimer in claimers:
        claimer.stdin.write(f"{seconds} {url}\n")  # type: ignore[union-attr]
    return sum(int(claimer.stdout.readline()) for claimer in claimers)  # type: ignore[union-attr]


@contextmanager
def explained(engine: Engine) -> Iterator[list[list[str]]]:
    """The plans of all statements on `jobs` that are executed meanwhile, as Postgres explains them just before."""
    plans: list[list[str]] = []

    def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if any(f"{words} jobs" in statement for words in ("FROM", "UPDATE", "INTO")):
            with cursor.connection.cursor() as other:
                other.execute(f"EXPLAIN {statement}", parameters)
                plans.append([row[0] for row in other.fetchall()])

    event.listen(engine, "before_cursor_execute", explain)
    yield plans
    event.remove(engine, "before_cursor_execute", explain)


def explain_steps(database: Database) -> dict[str, list[list[str]]]:
    """What is executed on `jobs` in each step."""
    shown = {}
    for name, step in make_steps(database).items():
        with explained(database.engine) as plans:
            step()
        shown[name] = plans
    return shown


def growing_plans(plans: dict[str, list[list[str]]]) -> list[str]:
    """The lines that would cost more with each job that has ended."""
    lines = itertools.chain.from_iterable(itertools.chain.from_iterable(plans.values()))
    return [line.strip() for line in lines if "Seq Scan on jobs" in line or "Sort" in line]
