"""F5: a worker that is frozen past its lease, and wakes up when the job is somebody else's."""

from __future__ import annotations

import pytest
from fault_proxy import Fault, HttpFaultProxy, Kind
from support import eventually
from trial import Trial, await_log, everyone, freeze, thaw


def test_a_frozen_worker_that_wakes_up_changes_nothing(trial: Trial) -> None:
    judge_frozen(trial, "double", num_inference_steps=100)


@pytest.mark.campaign
def test_a_frozen_real_pipeline_that_wakes_up_changes_nothing(trial: Trial) -> None:
    judge_frozen(trial, "tiny", num_inference_steps=12)


def judge_frozen(trial: Trial, model: str, **fields: object) -> None:
    frozen = trial.start(model)
    job = trial.submit(model=model, **fields)
    trial.await_step(job, 1)
    processes = everyone(frozen)
    freeze(processes)
    trial.service.start_worker(model)
    trial.await_status(job, "succeeded", within_s=120)
    winner = trial.service.job(job)
    thaw(processes)
    await_log(frozen, "was lost; whatever")
    eventually(lambda: trial.attempts(job)[0].stale_at)
    assert trial.service.job(job) == winner
    assert winner["attempt"] == 2
    assert trial.outcomes(job) == ["lost", "succeeded"]
    assert {key.split("/")[3] for key in trial.store.list_keys("jobs/")} == {"2"}
    trial.judge()


@pytest.mark.campaign
def test_a_worker_frozen_in_its_upload_spoils_no_result_when_it_wakes_up(
    s3_trial: Trial, s3_proxy: HttpFaultProxy
) -> None:
    frozen = s3_trial.start(worker={"s3_endpoint_url": s3_proxy.url("http://s3")})
    s3_proxy.set(Fault(Kind.FREEZE, methods=["PUT"]))
    job = s3_trial.submit()
    eventually(lambda: s3_proxy.strikes)
    processes = everyone(frozen)
    freeze(processes)
    s3_proxy.heal()  # its bytes go on by themselves: the object arrives late
    s3_trial.service.start_worker()
    row = s3_trial.await_status(job, "succeeded")
    thaw(processes)
    await_log(frozen, "was lost; whatever")
    assert s3_trial.row(job).result == row.result
    assert s3_trial.outcomes(job) == ["lost", "succeeded"]
    s3_trial.judge()
