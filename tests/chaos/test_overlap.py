"""F3, F5, F8 and F12 while a worker has two attempts: one result is being finished, the next job is on the device."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import timedelta

import pytest
from fault_proxy import Fault, HttpFaultProxy, Kind
from sqlalchemy import update
from support import PUBLIC_URL, Process, eventually
from trial import FAST, Trial, await_log

from shared.database import db_now
from shared.ids import parse_id
from shared.jobs.reap import reap_lost_job
from shared.states import Phase
from shared.tables import Job

#: what is finished waits for the store, while the worker takes it for healthy and goes on claiming.
_PUTS_FAIL = Fault(Kind.STATUS, status=503, methods=["PUT"])

Pair = Callable[[], tuple[str, str]]


@pytest.fixture
def pair(s3_trial: Trial, s3_proxy: HttpFaultProxy) -> Pair:
    """Submits two jobs, and returns when the first one's result cannot be stored and the second one denoises."""

    def make() -> tuple[str, str]:
        s3_proxy.set(_PUTS_FAIL)
        finishing, generating = s3_trial.submit(), s3_trial.submit(num_inference_steps=100)
        # Long enough for a heartbeat of the first since the second one began.
        s3_trial.await_step(generating, 15)
        eventually(lambda: s3_trial.row(finishing).phase == Phase.UPLOAD)
        assert s3_trial.row(generating).phase == Phase.DENOISE
        return finishing, generating

    return make


def start(trial: Trial, proxy: HttpFaultProxy, **common: object) -> Process:
    # Without measures, which on a busy machine take longer than the other job.
    return trial.start(worker={"s3_endpoint_url": proxy.url("http://s3"), "measures": False}, **common)


def take_lease_away(trial: Trial, job_id: str) -> None:
    """As a reaper whose worker was silent for a lease."""
    with trial.sessions.begin() as session:
        job = parse_id("job", job_id)
        past = db_now() - timedelta(seconds=1)
        session.execute(update(Job).where(Job.id == job).values(lease_expires_at=past))
        assert reap_lost_job(session, job, lease_s=FAST["lease_s"], max_losses=3, public_url=PUBLIC_URL)


@pytest.mark.timeout(240)
def test_two_attempts_of_a_worker_have_each_their_own_fate(
    s3_trial: Trial, s3_proxy: HttpFaultProxy, pair: Pair
) -> None:
    trial = s3_trial
    worker = start(trial, s3_proxy)

    canceled, other = pair()
    assert trial.service.request("POST", f"/v1/jobs/{canceled}/cancel").status == 200
    trial.await_status(canceled, "canceled")
    assert trial.row(other).phase == Phase.DENOISE
    s3_proxy.heal()
    trial.await_status(other, "succeeded")
    assert (trial.outcomes(canceled), trial.outcomes(other)) == (["canceled"], ["succeeded"])

    lost, other = pair()
    take_lease_away(trial, lost)
    await_log(worker, f"{lost} attempt 1 was lost; whatever")
    assert trial.row(other).phase == Phase.DENOISE
    s3_proxy.heal()
    trial.await_status(other, "succeeded")
    trial.await_status(lost, "succeeded")
    assert (trial.outcomes(lost), trial.outcomes(other)) == (["lost", "succeeded"], ["succeeded"])
    assert trial.row(lost).losses == 1  # the worker was not lost with the other one

    finishing, fatal = pair()
    worker.pool_child().kill()
    s3_proxy.heal()
    for job in (finishing, fatal):
        trial.await_status(job, "succeeded")
        assert trial.outcomes(job) == ["lost", "succeeded"]
    assert (trial.row(finishing).losses, trial.row(fatal).losses) == (0, 1)
    assert "collateral_loss" in trial.reasons(finishing)

    # An outage that is longer than a lease: both results wait, and nothing more is claimed.
    first, second = pair()
    third = trial.submit()
    s3_proxy.set(Fault(Kind.REFUSE))
    eventually(lambda: trial.row(second).phase == Phase.ENCODE)
    leases = trial.row(first).lease_expires_at, trial.row(second).lease_expires_at
    eventually(lambda: trial.db_time() > max(leases))
    assert (trial.outcomes(first), trial.outcomes(second), trial.outcomes(third)) == ([None], [None], [])
    s3_proxy.heal()
    for job in (first, second, third):
        trial.await_status(job, "succeeded")
        assert trial.outcomes(job) == ["succeeded"]
    trial.judge()


@pytest.mark.timeout(240)
def test_sigterm_lets_two_attempts_finish_within_the_grace_or_releases_both(
    s3_trial: Trial, s3_proxy: HttpFaultProxy, pair: Pair
) -> None:
    trial = s3_trial
    worker = start(trial, s3_proxy, drain_grace_s=0.5)
    jobs = pair()
    os.killpg(worker.popen.pid, signal.SIGTERM)
    assert worker.popen.wait(60) == 0
    for job in jobs:
        row = trial.row(job)
        assert (row.status, row.losses, row.transient_failures) == ("queued", 0, 0)
        assert trial.outcomes(job) == ["released"]
    s3_proxy.heal()
    worker = trial.service.start_worker(s3_endpoint_url=s3_proxy.url("http://s3"), measures=False, drain_grace_s=200)
    for job in jobs:
        trial.await_status(job, "succeeded")
    jobs = pair()
    waiting = trial.submit()
    os.killpg(worker.popen.pid, signal.SIGTERM)
    # The task of the second one ends first; its result goes on in a process that is about to leave.
    eventually(lambda: trial.row(jobs[1]).phase == Phase.ENCODE)
    s3_proxy.heal()
    assert worker.popen.wait(200) == 0
    assert [trial.outcomes(job) for job in (*jobs, waiting)] == [["succeeded"], ["succeeded"], []]
    trial.service.start_worker()
    trial.judge()
