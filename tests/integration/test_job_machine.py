"""The life of jobs as a state machine: random transitions by many hands, on real Postgres, against a reference model.

`JOB_MACHINE_EXAMPLES=2000 pytest tests/integration/test_job_machine.py` looks further, and elsewhere each time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from job_deeds import MODEL, PARAMS, Deed, Deeds, Parts, fence
from job_model import Model
from sqlalchemy import Engine, text, update

from api.auth import ensure_tenant
from bench.soak.promises import broken_promises
from shared.database import Sessions, db_now
from shared.errors import GenerationError, StorageError
from shared.ids import new_id
from shared.jobs.claim import Claim
from shared.objects import ObjectStore
from shared.settings import Settings
from shared.tables import Worker
from worker.lease import AttemptStopped, StopReason
from worker.maintenance.erase import erase_deleted_jobs

#: in a run that is bounded to seconds; the same ones each time.
_EXAMPLES = 30
_STEPS = 40
_QUEUED_JOBS_MAX = 5

Index = st.integers(0, 63)
Whose = st.sampled_from(["live", "live", "live", "stale", "forged"])


class JobMachine(RuleBasedStateMachine):
    """Draws whole numbers and takes them modulo what there is, so that a race cannot change what is drawn next."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.parts = parts
        self.model = Model(parts.settings.max_losses, parts.settings.max_transient_failures)
        self.deeds = Deeds(parts)
        self.workers = [new_id() for _ in range(4)]
        with self.parts.sessions.begin() as session:
            session.execute(text("TRUNCATE jobs, inputs, workers CASCADE"))
            session.add_all(Worker(id=worker, hostname="h", pid=1, model=MODEL) for worker in self.workers)
        self.model.workers = dict.fromkeys(self.workers)

    # Callers

    @initialize(size=st.integers(0, 3))
    def begin(self, size: int) -> None:
        for n in range(size):
            self.perform(self.deeds.accepting(n % 2, 0, True, n, None, _QUEUED_JOBS_MAX))
            self.perform(self.deeds.claiming(self.workers[n]))

    @rule(
        who=st.integers(0, 1),
        priority=st.integers(0, 2),
        webhook=st.booleans(),
        image=st.integers(0, 11),
        key=st.sampled_from([None, None, None, "a", "b"]),
        body=st.sampled_from([b"1", b"1", b"1", b"2"]),
        times=st.integers(1, 3),
    )
    def accept(
        self, who: int, priority: int, webhook: bool, image: int, key: str | None, body: bytes, times: int
    ) -> None:
        idempotency = (key, body) if key else None
        for _ in range(times):
            self.perform(self.deeds.accepting(who, priority, webhook, image, idempotency, _QUEUED_JOBS_MAX))

    @rule(n=Index, how=st.sampled_from(["cancel", "cancel", "delete"]))
    def stop(self, n: int, how: str) -> None:
        if job_id := self.pick(n):
            self.perform(self.deeds.canceling(job_id) if how == "cancel" else self.deeds.deleting(job_id))

    # Workers

    @rule(n=Index, times=st.integers(1, 3))
    def claim(self, n: int, times: int) -> None:
        for turn in range(times):
            self.perform(self.deeds.claiming(self.workers[(n + turn) % 4]))

    @rule(n=Index, keeps=st.booleans())
    def claim_beside_an_open_claim(self, n: int, keeps: bool) -> None:
        """A second session must pass over the row that the first has locked, not wait for it."""
        first, second = self.workers[n % 4], self.workers[(n + 1) % 4]
        before = deepcopy(self.model)
        with self.parts.sessions() as session:
            mine = self.deeds.claim_in(session, first)
            assert fence(mine) == self.model.claim(first)
            touched = [job for job in before.jobs.values() if job.status != self.model.jobs[job.id].status]
            theirs = self.deeds.claim(second)
            assert fence(theirs) == self.model.claim(second)
            if keeps:
                session.commit()
        if not keeps:
            # As though the first had never been, but that what it touched was out of reach for the second.
            self.model = before
            for job in touched:
                job.held = True
            assert before.claim(second) == fence(theirs)
            for job in touched:
                job.held = False
        self.deeds.claims += [claim for claim in (mine if keeps else None, theirs) if claim is not None]

    @rule(n=Index, whose=Whose, step=st.integers(0, 25))
    def beat(self, n: int, whose: str, step: int) -> None:
        """Beat, and stop if the flags say so, as a worker does."""
        claim = self.pick_claim(n, whose)
        if claim is None:
            return
        flags = self.perform_as(claim, self.deeds.beating(claim, step))
        if flags is not None and any(flags) and step % 2:
            reason = StopReason.CANCEL if flags[0] else StopReason.RELEASE
            self.perform_as(claim, self.deeds.settling(claim, AttemptStopped(reason)))

    @rule(n=Index, whose=Whose)
    def finish(self, n: int, whose: str) -> None:
        if claim := self.pick_claim(n, whose):
            self.perform_as(claim, self.deeds.finishing(claim))

    @rule(
        n=Index,
        whose=Whose,
        error=st.sampled_from(
            [
                GenerationError("x"),
                StorageError("x"),
                StorageError("x"),
                AttemptStopped(StopReason.RELEASE),
                AttemptStopped(StopReason.CUT_OFF),
                AttemptStopped(StopReason.LOST),
            ]
        ),
    )
    def settle(self, n: int, whose: str, error: Exception) -> None:
        """Fail, retry, release, or know that nothing may be written any more."""
        if claim := self.pick_claim(n, whose):
            self.perform_as(claim, self.deeds.settling(claim, error))

    @rule(n=st.integers(0, 15))
    def drain(self, n: int) -> None:
        """A worker gets its SIGTERM; more often one comes back."""
        worker = self.workers[n % 4]
        drains = n < 4
        self.model.draining = (self.model.draining - {worker}) | ({worker} if drains else set())
        with self.parts.sessions.begin() as session:
            deadline = db_now() if drains else None
            session.execute(update(Worker).where(Worker.id == worker).values(drain_deadline_at=deadline))

    # The maintainer

    @rule()
    def reap(self) -> None:
        for job_id in list(self.model.jobs):
            self.perform(self.deeds.reaping(job_id))
            self.perform(self.deeds.reaping_overdue(job_id))

    @rule(n=st.integers(0, 255))
    def expire_queued(self, n: int) -> None:
        if n < 64 and (job_id := self.pick(n, "queued")):
            self.perform(self.deeds.expiring(job_id))

    @rule()
    def erase(self) -> None:
        erase_deleted_jobs(self.parts.sessions, self.parts.store)
        self.model.erase()

    # Time, and what an operator does to rows

    @rule(n=Index, reaps=st.booleans())
    def let_a_lease_run_out(self, n: int, reaps: bool) -> None:
        if job_id := self.pick(n, "running"):
            self.deeds.set(job_id, lease_expires_at=db_now() - timedelta(seconds=1))
            self.model.jobs[job_id].expired = True
            if reaps:
                self.perform(self.deeds.reaping(job_id))

    @rule(n=Index)
    def let_a_deadline_pass(self, n: int) -> None:
        if job_id := self.pick(n, "running"):
            self.deeds.set(job_id, deadline_at=db_now() - timedelta(seconds=1))
            self.model.jobs[job_id].overdue = True

    @rule()
    def let_pauses_pass(self) -> None:
        for job in self.model.jobs.values():
            if job.waiting:
                self.deeds.set(job.id, run_after=db_now() - timedelta(seconds=1))
                job.waiting = False

    @rule(n=Index, what=st.sampled_from(["hold", "let go", "let go", "spoil"]))
    def meddle(self, n: int, what: str) -> None:
        """Hold a job; or have it accepted by a version with other limits."""
        job_id = self.pick(n, "queued")
        if job_id and what == "spoil":
            self.deeds.set(job_id, params={**PARAMS.model_dump(mode="json"), "num_frames": 64})
            self.model.jobs[job_id].odd = True
        elif job_id:
            self.deeds.set(job_id, held=what == "hold")
            self.model.jobs[job_id].held = what == "hold"

    # Two at once

    @rule(n=Index, whose=Whose, first=st.integers(0, 9), second=st.integers(0, 9))
    def race(self, n: int, whose: str, first: int, second: int) -> None:
        """Whatever two sessions do at once, it is as though one had come first."""
        claim = self.pick_claim(n, whose)
        job_id = claim.job_id if claim else self.pick(n)
        if job_id is None:
            return
        deeds = [self.racer(choice, job_id, claim, n + turn) for turn, choice in enumerate((first, second))]
        got = run_at_once([deed.do for deed in deeds])
        actual = self.deeds.read()
        orders: list[tuple[int, ...]] = [(0, 1), (1, 0)]
        orders += [(1 - turn,) for turn, deed in enumerate(deeds) if deed.skips_locked and got[turn] is None]
        for order in orders:
            model = deepcopy(self.model)
            if all(deeds[turn].expect(model, got[turn]) == got[turn] for turn in order) and model.snapshot() == actual:
                self.model = model
                return
        raise AssertionError(f"no order of the two explains {got} and {actual}")

    def racer(self, choice: int, job_id: UUID, claim: Claim | None, n: int) -> Deed:
        deeds = self.deeds
        choices: list[Callable[[], Deed]] = [
            # One that drains would hide the best job from another for a moment.
            lambda: deeds.canceling(job_id) if self.model.draining else deeds.claiming(self.workers[n % 4]),
            lambda: deeds.canceling(job_id),
            lambda: deeds.deleting(job_id),
            lambda: deeds.reaping(job_id),
            lambda: deeds.reaping_overdue(job_id),
            lambda: deeds.accepting(0, 1, True, 0, ("race", b"1"), 10_000),
        ]
        if claim is not None:
            choices += [
                lambda: deeds.beating(claim, 3),
                lambda: deeds.finishing(claim),
                lambda: deeds.settling(claim, StorageError("x")),
                lambda: deeds.settling(claim, AttemptStopped(StopReason.RELEASE)),
            ]
        return choices[choice % len(choices)]()

    # What always holds

    @invariant()
    def the_tables_say_what_the_model_says(self) -> None:
        assert self.deeds.read() == self.model.snapshot()

    @invariant()
    def the_promises_hold(self) -> None:
        with self.parts.sessions() as session:
            assert broken_promises(lambda statement: session.execute(text(statement))) == {}

    # How the machine works

    def perform(self, deed: Deed) -> Any:
        got = deed.do()
        assert got == deed.expect(self.model, got)
        return got

    def perform_as(self, claim: Claim, deed: Deed) -> Any:
        if self.model.holds(*self.deeds.fence_of(claim)):
            return self.perform(deed)
        with self.nothing_changes():
            return self.perform(deed)

    @contextmanager
    def nothing_changes(self) -> Iterator[None]:
        before = self.deeds.row_versions()
        yield
        assert self.deeds.row_versions() == before

    def pick(self, n: int, status: str | None = None) -> UUID | None:
        """A job, of this status if one is named: rather a late one, since most early ones have ended."""
        jobs = [job.id for job in self.model.jobs.values() if status is None or job.status == status][-8:]
        return jobs[n % len(jobs)] if jobs else None

    def pick_claim(self, n: int, whose: str) -> Claim | None:
        def fitting() -> list[Claim]:
            is_live = whose != "stale"
            return [claim for claim in self.deeds.claims if self.model.holds(claim.job_id, claim.attempt) == is_live][
                -8:
            ]

        fits = fitting()
        if not fits:
            self.perform(self.deeds.claiming(self.workers[n % 4]))
            fits = fitting()
        if not fits:
            return None
        claim = fits[n % len(fits)]
        return replace(claim, lease_token=new_id()) if whose == "forged" else claim


def run_at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """What each returned; raises what one raised."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(run, call) for call in calls]]


@pytest.fixture
def parts(engine: Engine, sessions: Sessions, settings: Settings, store: ObjectStore) -> Parts:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # A power cut is not what is tried here, and waiting for the disk would take most of the time.
        connection.exec_driver_sql(f"ALTER DATABASE {engine.url.database} SET synchronous_commit = off")
    engine.dispose()
    with sessions.begin() as session:
        tenants = [ensure_tenant(session, name) for name in ("default", "other")]
    settings = settings.model_copy(update={"max_losses": 2, "max_transient_failures": 1})
    return Parts(engine, sessions, settings, store, tenants)


@pytest.mark.timeout(1800)
def test_no_order_of_transitions_by_many_hands_breaks_a_promise(parts: Parts) -> None:
    chosen = os.environ.get("JOB_MACHINE_EXAMPLES")
    run_state_machine_as_test(
        lambda: JobMachine(parts),
        settings=hypothesis_settings(
            max_examples=int(chosen or _EXAMPLES),
            stateful_step_count=_STEPS,
            derandomize=chosen is None,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
