"""F4: a job that kills its worker every time: a segfault, or the kernel's out-of-memory killer."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from support import eventually
from trial import Trial

from shared.video import ffmpeg_executable


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


@pytest.mark.campaign
def test_a_job_whose_encoding_kills_its_worker_fails_and_costs_another_at_most_one_loss(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fatal_size = "320x192"
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text(
        f'#!/bin/sh\ncase "$*" in *{fatal_size}*) sleep 2; kill -9 $PPID;; esac\nexec {ffmpeg_executable()} "$@"\n'
    )
    ffmpeg.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(ffmpeg))
    trial.start(max_losses=2)
    fatal = trial.submit(width=320, height=192)
    others = [trial.submit(num_inference_steps=60) for _ in range(3)]
    trial.await_status(fatal, "failed", within_s=120)
    # The first time it is not clear whose fault it was; then it was alone.
    assert (trial.row(fatal).error_code, trial.outcomes(fatal)) == ("worker_lost", ["lost"] * 3)
    assert trial.reasons(fatal).count("collateral_loss") == 1
    for job in others:
        trial.await_status(job, "succeeded", within_s=120)
    assert sum(trial.row(job).losses for job in others) == 1
    trial.judge()
