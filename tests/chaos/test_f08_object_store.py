"""F8: an object store that answers 500 or 503, is slow, breaks off, damages what it is given, or is away for long."""

from __future__ import annotations

import pytest
from fault_proxy import Fault, HttpFaultProxy, Kind
from support import eventually
from trial import Trial, await_log

_RETRIES = {"retry_base_s": 0.2, "retry_max_s": 0.5}

_PUT_FAULTS = {
    "500": Fault(Kind.STATUS, status=500, methods=["PUT"]),
    "503": Fault(Kind.STATUS, status=503, methods=["PUT"]),
    "cut": Fault(Kind.CUT_REQUEST, after_bytes=1000, methods=["PUT"]),
    "damaged": Fault(Kind.DAMAGE_REQUEST, methods=["PUT"]),
}
_GET_FAULTS = {
    "500": Fault(Kind.STATUS, status=500, methods=["GET"]),
    "cut": Fault(Kind.CUT_ANSWER, after_bytes=1000, methods=["GET"]),
    "damaged": Fault(Kind.DAMAGE_ANSWER, methods=["GET"]),
}


@pytest.mark.timeout(240)
def test_a_failed_read_sends_the_job_back_and_a_failed_upload_is_repeated_without_generating_twice(
    s3_trial: Trial, s3_proxy: HttpFaultProxy
) -> None:
    s3_trial.start(worker={"s3_endpoint_url": s3_proxy.url("http://s3")}, **_RETRIES)
    for name, fault in _GET_FAULTS.items():
        s3_proxy.set(fault)
        job = s3_trial.submit()
        eventually(lambda job=job: s3_trial.outcomes(job)[:1] == ["retried"])
        s3_proxy.heal()
        s3_trial.await_status(job, "succeeded")
        assert set(s3_trial.outcomes(job)[:-1]) == {"retried"}, name
    for name, fault in _PUT_FAULTS.items():
        s3_proxy.set(fault)
        job = s3_trial.submit()
        eventually(lambda: s3_proxy.strikes >= 2)
        assert s3_trial.row(job).status == "running", name
        s3_proxy.heal()
        s3_trial.await_status(job, "succeeded")
        assert s3_trial.outcomes(job) == ["succeeded"], name
    s3_proxy.set(Fault(Kind.DELAY, seconds=0.4))
    slow = s3_trial.submit()
    s3_trial.await_status(slow, "succeeded")
    assert s3_trial.outcomes(slow) == ["succeeded"]
    s3_trial.judge()


@pytest.mark.campaign
def test_an_image_that_cannot_be_read_sends_the_job_back_a_bounded_number_of_times(
    s3_trial: Trial, s3_proxy: HttpFaultProxy
) -> None:
    s3_trial.start(worker={"s3_endpoint_url": s3_proxy.url("http://s3")}, max_transient_failures=2, **_RETRIES)
    s3_proxy.set(_GET_FAULTS["damaged"])
    hopeless = s3_trial.submit()
    assert s3_trial.await_status(hopeless, "failed").error_code == "storage_unavailable"
    assert s3_trial.outcomes(hopeless) == ["retried", "retried", "failed"]
    s3_trial.judge()


def test_a_result_waits_on_disk_for_a_store_that_is_away_longer_than_its_generation(
    s3_trial: Trial, s3_proxy: HttpFaultProxy
) -> None:
    worker = s3_trial.start(worker={"s3_endpoint_url": s3_proxy.url("http://s3")})
    job, waiting = s3_trial.submit(num_inference_steps=50), s3_trial.submit()
    s3_trial.await_step(job)
    s3_proxy.set(Fault(Kind.REFUSE))
    await_log(worker, "waits for the object store")
    # A generation takes 2.5 s; let the outage last for more than a lease, which is 3 s.
    lease = s3_trial.row(job).lease_expires_at
    eventually(lambda: s3_trial.db_time() > lease)
    assert s3_trial.row(job).lease_expires_at > lease
    assert s3_trial.outcomes(waiting) == []
    s3_proxy.heal()
    s3_trial.await_status(job, "succeeded")
    s3_trial.await_status(waiting, "succeeded")
    assert s3_trial.outcomes(job) == s3_trial.outcomes(waiting) == ["succeeded"]
    s3_trial.judge()


@pytest.mark.campaign
def test_nothing_is_claimed_while_the_store_is_away(s3_trial: Trial, s3_proxy: HttpFaultProxy) -> None:
    s3_proxy.set(Fault(Kind.REFUSE))
    worker = s3_trial.start(worker={"s3_endpoint_url": s3_proxy.url("http://s3")})
    job = s3_trial.submit()
    await_log(worker, "nothing claimed")
    assert s3_trial.outcomes(job) == []
    s3_proxy.heal()
    s3_trial.await_status(job, "succeeded")
    s3_trial.judge()
