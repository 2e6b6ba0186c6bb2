"""F4: a job that kills its worker every time: a segfault, or the kernel's out-of-memory killer."""

from __future__ import annotations

import signal
from contextlib import suppress

import psutil
import pytest
from support import eventually
from trial import Trial


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGSEGV, id="segfault"),
        pytest.param(signal.SIGKILL, id="out of memory", marks=pytest.mark.campaign),
    ],
)
def test_a_job_that_kills_its_worker_every_time_fails_and_the_others_go_on(
    trial: Trial, number: signal.Signals
) -> None:
    worker = trial.start(max_losses=2)
    fatal = trial.submit(num_inference_steps=100)
    others = [trial.submit() for _ in range(2)]

    def strike() -> bool:
        row = trial.row(fatal)
        if row.status == "running" and row.step:
            with suppress(psutil.NoSuchProcess, ValueError):  # between two children
                worker.pool_child().send_signal(number)
        return row.status == "failed"

    eventually(strike, within_s=40, every_s=0.2)
    row = trial.row(fatal)
    assert (row.error_code, row.losses, trial.outcomes(fatal)) == ("worker_lost", 2, ["lost"] * 2)
    for job in others:
        trial.await_status(job, "succeeded")
        assert trial.outcomes(job) == ["succeeded"]
    trial.judge()
