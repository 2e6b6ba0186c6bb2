"""F9: a worker that is cut off from Postgres, while everybody else is not."""

from __future__ import annotations

from datetime import timedelta

import pytest
from fault_proxy import Fault, FaultProxy, Kind
from support import eventually
from trial import Trial, await_log


@pytest.mark.parametrize("kind", [Kind.FREEZE, pytest.param(Kind.REFUSE, marks=pytest.mark.campaign)])
def test_a_worker_that_is_cut_off_stops_before_its_lease_ends_and_another_completes(trial: Trial, kind: Kind) -> None:
    service = trial.service
    database_url = service.settings.database_url.get_secret_value()
    with FaultProxy(database_url) as proxy:
        # A third of the lease is left when it stops: more than this test's own slowness.
        cut_off = trial.start(worker={"database_url": proxy.url(database_url)}, lease_s=5)
        job = trial.submit(num_inference_steps=100)
        trial.await_step(job)
        proxy.set(Fault(kind))
        await_log(cut_off, "no heartbeat for two thirds of the lease")
        row = trial.row(job)
        assert (row.status, row.attempt) == ("running", 1)
        assert row.lease_expires_at - trial.db_time() > timedelta(seconds=0.3)  # nobody else can have it yet
        other = service.start_worker()
        trial.await_status(job, "succeeded")
        assert trial.outcomes(job) == ["lost", "succeeded"]
        proxy.heal()
        other.stop()
        again = trial.submit()
        trial.await_status(again, "succeeded")  # by the one that was cut off
        eventually(lambda: trial.outcomes(again) == ["succeeded"])
        trial.judge()
