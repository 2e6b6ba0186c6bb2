"""F12: SIGTERM during a job: to the parent or the whole group, with a long grace or a short one, once or twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest
from sqlalchemy import select
from support import Process
from trial import Trial

from shared.tables import Worker


def to_parent(worker: Process) -> None:
    worker.signal(signal.SIGTERM)


def to_group(worker: Process) -> None:
    os.killpg(worker.popen.pid, signal.SIGTERM)


def twice(worker: Process) -> None:
    worker.signal(signal.SIGTERM)
    time.sleep(0.3)
    worker.signal(signal.SIGTERM)


def to_group_twice(worker: Process) -> None:
    to_group(worker)
    time.sleep(0.3)
    to_group(worker)


@pytest.mark.parametrize(
    "stop",
    [to_group, *(pytest.param(way, marks=pytest.mark.campaign) for way in (to_parent, twice, to_group_twice))],
)
def test_a_job_finishes_within_a_long_grace(trial: Trial, stop: Callable[[Process], None]) -> None:
    judge_finished(trial, "double", stop, steps=80)


@pytest.mark.campaign
@pytest.mark.timeout(900)
def test_a_job_of_a_real_pipeline_finishes_within_a_long_grace(trial: Trial) -> None:
    judge_finished(trial, "tiny", to_group, steps=8)


def judge_finished(trial: Trial, model: str, stop: Callable[[Process], None], *, steps: int) -> None:
    # The grace must outlast the job on the slowest machine; who waits for the end waits longer still.
    worker = trial.start(model, drain_grace_s=400)
    job, waiting = (trial.submit(model=model, num_inference_steps=steps) for _ in range(2))
    trial.await_step(job)
    stop(worker)
    assert worker.popen.wait(450) == 0
    assert trial.row(job).status == "succeeded"
    assert trial.outcomes(waiting) == []
    with trial.sessions() as session:
        assert session.scalars(select(Worker)).all() == []
    trial.service.start_worker(model)
    trial.judge(within_s=120)


@pytest.mark.parametrize(
    "stop",
    [to_group_twice, *(pytest.param(way, marks=pytest.mark.campaign) for way in (to_parent, to_group, twice))],
)
def test_a_job_is_released_when_a_short_grace_is_over(trial: Trial, stop: Callable[[Process], None]) -> None:
    judge_released(trial, "double", stop, steps=80)


@pytest.mark.campaign
@pytest.mark.timeout(900)
def test_a_job_of_a_real_pipeline_is_released_when_a_short_grace_is_over(trial: Trial) -> None:
    judge_released(trial, "tiny", to_group, steps=15)


def judge_released(trial: Trial, model: str, stop: Callable[[Process], None], *, steps: int) -> None:
    worker = trial.start(model, drain_grace_s=0.5)
    job = trial.submit(model=model, num_inference_steps=steps)
    trial.await_step(job)
    stop(worker)
    assert worker.popen.wait(60) == 0
    row = trial.row(job)
    assert (row.status, row.losses, row.transient_failures) == ("queued", 0, 0)
    assert trial.outcomes(job) == ["released"]
    trial.service.start_worker(model)
    trial.judge(within_s=120)
    assert trial.outcomes(job) == ["released", "succeeded"]
