"""F3: kill -9 the pool child, its parent, or both, in every phase of an attempt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from fault_proxy import Fault, HttpFaultProxy, Kind
from sqlalchemy import text
from support import eventually, webhook_receiver
from trial import FAST, Trial, kill, open_port

from shared.states import Phase
from shared.video import ffmpeg_executable

_VICTIMS = ("child", "parent", "both")
_PHASES = (Phase.FETCH, Phase.DENOISE, Phase.ENCODE, Phase.UPLOAD, Phase.FINISH)

Hold = Callable[[Phase], AbstractContextManager[None]]


@pytest.fixture
def hold(s3_trial: Trial, s3_proxy: HttpFaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hold:
    """Makes an attempt stay in one phase, of workers that are started from now on."""
    gate = tmp_path / "gate"
    slow = tmp_path / "ffmpeg"
    slow.write_text(f'#!/bin/sh\nwhile [ -e {gate} ]; do sleep 0.05; done\nexec {ffmpeg_executable()} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(slow))

    @contextmanager
    def hold(phase: Phase) -> Iterator[None]:
        match phase:
            case Phase.FETCH:
                s3_proxy.set(Fault(Kind.FREEZE, methods=["GET"]))
            case Phase.ENCODE:
                gate.touch()
            case Phase.UPLOAD:
                s3_proxy.set(Fault(Kind.FREEZE, methods=["PUT"]))
        with s3_trial.engine.connect() as blocker:
            if phase is Phase.FINISH:
                blocker.execute(text("LOCK TABLE webhook_deliveries IN EXCLUSIVE MODE"))
            try:
                yield
            finally:
                gate.unlink(missing_ok=True)
                s3_proxy.heal()

    return hold


def await_phase(trial: Trial, job_id: str, phase: Phase) -> None:
    if phase is Phase.FINISH:  # its transaction holds the row, so no heartbeat says so
        eventually(lambda: trial.count_waiting_for("webhook_deliveries", "animatic-worker"))
    else:
        eventually(lambda: trial.row(job_id).phase == phase and trial.row(job_id).status == "running")


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "turn", [0, pytest.param(1, marks=pytest.mark.campaign), pytest.param(2, marks=pytest.mark.campaign)]
)
def test_a_worker_killed_in_any_phase_costs_one_loss_and_the_job_runs_again(
    s3_trial: Trial, s3_proxy: HttpFaultProxy, hold: Hold, turn: int
) -> None:
    service = s3_trial.service
    with webhook_receiver() as receiver:
        through_proxy = {"s3_endpoint_url": s3_proxy.url("http://s3")}
        worker = s3_trial.start(worker=through_proxy, **open_port(receiver.url))
        for index, phase in enumerate(_PHASES):
            victim = _VICTIMS[(index + turn) % len(_VICTIMS)]
            with hold(phase):
                steps = 100 if phase is Phase.DENOISE else 2
                job = s3_trial.submit(num_inference_steps=steps, webhook_url=receiver.url)
                await_phase(s3_trial, job, phase)
                kill(worker, victim)
            killed_at = s3_trial.db_time()
            if victim != "child":
                worker = service.start_worker(**through_proxy)
            row = s3_trial.await_status(job, "succeeded")
            assert (s3_trial.outcomes(job), row.losses) == (["lost", "succeeded"], 1), (phase, victim)
            given_back_after = s3_trial.attempts(job)[0].ended_at - killed_at
            assert given_back_after < timedelta(seconds=FAST["lease_s"] + 5), (phase, victim)
        s3_trial.judge()


@pytest.mark.campaign
@pytest.mark.parametrize("victim", _VICTIMS)
def test_a_real_pipeline_killed_while_it_denoises_runs_again(trial: Trial, victim: str) -> None:
    worker = trial.start("tiny")
    job = trial.submit(model="tiny", num_inference_steps=12)
    trial.await_step(job, 1)
    kill(worker, victim)
    if victim != "child":
        trial.service.start_worker("tiny")
    trial.await_status(job, "succeeded", within_s=200)
    assert trial.outcomes(job) == ["lost", "succeeded"]
    trial.judge()
