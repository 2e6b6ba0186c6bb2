"""F7: Postgres ends all sessions, restarts at once, is away for longer than a lease, or does not answer a COMMIT."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_proxy import Fault, FaultProxy, Kind
from pydantic import SecretStr
from sqlalchemy import text
from support import eventually, migrate, webhook_receiver
from trial import EITHER, FAST, Trial, await_log, open_port

from cli.engines import Postgres
from shared.settings import Settings

_END_SESSIONS = text(
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="animatic-outage-"))
    folder.chmod(0o711)  # Postgres runs as another user when we are root
    postgres = Postgres(folder / "postgres")
    postgres.start()
    yield postgres
    postgres.stop()
    postgres.erase()
    folder.rmdir()


@pytest.fixture
def outage_trial(make_trial: Callable[..., Trial], settings: Settings, own_postgres: Postgres) -> Iterator[Trial]:
    migrate(own_postgres.url)
    trial = make_trial(settings.model_copy(update={"database_url": SecretStr(own_postgres.url)}))
    yield trial
    trial.service.stop_all()


def test_sessions_that_are_ended_cost_no_job_its_attempt(trial: Trial) -> None:
    trial.service.start_all()
    jobs = [trial.submit(num_inference_steps=30), trial.submit()]
    trial.await_step(jobs[0])
    for number in range(6):
        with trial.engine.connect() as connection:
            connection.execute(_END_SESSIONS)
        answer = trial.offer(key=f"key-{number}")
        if answer.status != 202:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
            assert trial.offer(key=f"key-{number}").status == 202
        time.sleep(0.3)
    for job in jobs:
        trial.await_status(job, "succeeded")
        assert trial.outcomes(job) == ["succeeded"]
    trial.judge()


@EITHER
def test_a_commit_that_is_not_answered_is_found_done_or_is_done_again(
    trial: Trial, offer: Callable[..., Any], num_jobs: int
) -> None:
    """Both ways: the COMMIT was done and the answer is lost, or it never arrived."""
    database_url = trial.service.settings.database_url.get_secret_value()
    with FaultProxy(database_url) as proxy, webhook_receiver() as receiver:
        trial.start(database_url=proxy.url(database_url), **open_port(receiver.url))
        for kind, made in ((Kind.LOSE_ANSWER, num_jobs), (Kind.LOSE_REQUEST, 0)):
            before = trial.count_jobs()
            proxy.set(Fault(kind, statement=b"COMMIT", preceded_by=b"INTO jobs"))
            answer = offer(trial, key=kind, webhook_url=receiver.url)
            assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
            assert trial.count_jobs() - before == made
            # Only the finish writes there: of a job, of an experiment's last one.
            proxy.set(Fault(kind, statement=b"COMMIT", preceded_by=b"INTO webhook_deliveries"))
            again = offer(trial, key=kind, webhook_url=receiver.url)
            assert (again.status, trial.count_jobs() - before) == (202, num_jobs)
            eventually(lambda expected=before + num_jobs: trial.count_jobs("succeeded") == expected)
            assert proxy.strikes == 1
        assert [trial.outcomes(job) for job in trial.jobs()] == [["succeeded"]] * 2 * num_jobs
        trial.judge()
        assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 2


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "is_long",
    [
        pytest.param(True, id="longer than a lease"),
        pytest.param(False, id="immediate restart", marks=pytest.mark.campaign),
    ],
)
def test_an_outage_of_postgres_costs_no_job_a_loss(outage_trial: Trial, own_postgres: Postgres, is_long: bool) -> None:
    trial = outage_trial
    # A restart takes seconds on a busy machine; it is the shorter of the two whatever it takes.
    trial.service.start_all(lease_s=FAST["lease_s"] if is_long else 60)
    # Long enough to be at work still when two thirds of a lease have passed without Postgres.
    job = trial.submit(num_inference_steps=100)
    trial.await_step(job)
    own_postgres.child.process.send_signal(signal.SIGQUIT)  # an immediate shutdown: as a crash
    eventually(lambda: trial.service.request("GET", "/readyz").status == 503)
    assert trial.offer(key="meanwhile").status == 503
    if is_long:
        time.sleep(FAST["lease_s"] + 1)
    own_postgres.restart()
    eventually(lambda: trial.service.request("GET", "/readyz").status == 200)
    row = trial.await_status(job, "succeeded")
    assert row.losses == 0
    assert trial.outcomes(job) == (["released", "succeeded"] if is_long else ["succeeded"])
    assert trial.offer(key="meanwhile").status == 202
    trial.judge()


@pytest.mark.timeout(240)
def test_a_finish_that_meets_an_outage_longer_than_a_lease_is_done_afterwards(
    outage_trial: Trial, own_postgres: Postgres
) -> None:
    trial = outage_trial
    with webhook_receiver() as receiver:
        worker = trial.start(**open_port(receiver.url))
        with trial.engine.connect() as blocker:
            blocker.execute(text("LOCK TABLE webhook_deliveries IN EXCLUSIVE MODE"))
            job = trial.submit(webhook_url=receiver.url)
            eventually(lambda: trial.count_waiting_for("webhook_deliveries", "animatic-worker"))
            own_postgres.child.process.send_signal(signal.SIGQUIT)
            await_log(worker, "no heartbeat for two thirds of the lease")
            time.sleep(FAST["lease_s"])
            blocker.invalidate()
        own_postgres.restart()
        row = trial.await_status(job, "succeeded")
        assert (row.losses, trial.outcomes(job)) == (0, ["succeeded"])
        trial.judge()
