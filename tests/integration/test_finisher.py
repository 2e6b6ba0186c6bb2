"""The second half of an attempt, beside the next one's first half or not."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, update
from support import PUBLIC_URL, WORKER_ID, eventually

from shared.database import Sessions, db_now
from shared.errors import DeviceLostError
from shared.jobs.reap import reap_lost_job
from shared.settings import Settings
from shared.states import JobStatus, Phase
from shared.tables import Input, Job
from shared.video import ffmpeg_executable
from worker.attempt import Services
from worker.double import DoublePipeline
from worker.generate import Generator
from worker.pipeline import Generation

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """While this file is there, ffmpeg does not begin."""
    gate, slow = tmp_path / "gate", tmp_path / "ffmpeg"
    slow.write_text(f'#!/bin/sh\nwhile [ -e {gate} ]; do sleep 0.05; done\nexec {ffmpeg_executable()} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(slow))
    gate.touch()
    return gate


@pytest.fixture
def make_generator(
    engine: Engine, sessions: Sessions, settings: Settings, store: Any, rocket: bytes, submit: Callable[..., UUID]
) -> Iterator[Callable[..., Generator]]:
    """Makes workers without their process; `submit` must have made its jobs before."""
    made = []

    def make(**changes: Any) -> Generator:
        store.put("inputs/x.png", rocket, media_type="image/jpeg")
        with sessions.begin() as session:
            session.execute(update(Input).values(sha256=hashlib.sha256(rocket).hexdigest()))
        services = Services(settings=settings.model_copy(update=changes), sessions=sessions, store=store)
        made.append(Generator(services, engine, DoublePipeline(step_s=0.001), model="tiny", worker_id=WORKER_ID))
        return made[-1]

    yield make
    for generator in made:
        generator.finisher.join()
    # A lease's thread ends a moment later, and gives its connection back.
    eventually(lambda: not any(thread.name.startswith("lease-") for thread in threading.enumerate()))


def read(sessions: Sessions, job_id: UUID) -> Job:
    with sessions() as session:
        return session.get_one(Job, job_id)


def test_the_next_job_is_generated_while_a_result_is_finished_and_then_waits_for_its_turn(
    sessions: Sessions, submit: Callable[..., UUID], make_generator: Callable[..., Generator], gate: Path
) -> None:
    first, second = submit(), submit()
    generator = make_generator()
    assert generator.run_next()
    assert (read(sessions, first).status, generator.finisher.is_busy) == (JobStatus.RUNNING, True)
    task = threading.Thread(target=generator.run_next)
    task.start()
    eventually(lambda: read(sessions, second).phase == Phase.ENCODE)
    task.join(0.5)
    assert task.is_alive()
    gate.unlink()
    task.join()
    generator.finisher.join()
    assert [read(sessions, job).status for job in (first, second)] == [JobStatus.SUCCEEDED] * 2


@pytest.mark.parametrize("was_lost", [True, False], ids=["lost before", "ANIMATIC_OVERLAP=false"])
def test_a_suspect_is_finished_with_nothing_beside_it_and_so_is_every_job_without_overlap(
    sessions: Sessions, submit: Callable[..., UUID], claim: Any, make_generator: Any, was_lost: bool
) -> None:
    job_id = submit()
    generator = make_generator(overlap=was_lost)
    if was_lost:
        claim()
        with sessions.begin() as session:
            past = db_now() - timedelta(seconds=1)
            session.execute(update(Job).where(Job.id == job_id).values(lease_expires_at=past))
            assert reap_lost_job(session, job_id, lease_s=30, max_losses=3, public_url=PUBLIC_URL)
    assert generator.run_next()
    assert read(sessions, job_id).status == JobStatus.SUCCEEDED
    assert not generator.finisher.is_busy


class FailingPipeline:
    """Its device fails at the second job."""

    def __init__(self) -> None:
        self._double, self._jobs = DoublePipeline(step_s=0.001), 0
        self.info = self._double.info

    def generate(self, *arguments: Any) -> Generation:
        self._jobs += 1
        if self._jobs == 2:
            raise DeviceLostError("cpu failed")
        return self._double.generate(*arguments)


def test_a_lost_device_costs_no_result_and_no_attempt_of_others(
    sessions: Sessions, submit: Callable[..., UUID], make_generator: Callable[..., Generator], gate: Path
) -> None:
    finishing, struck, waiting = (submit() for _ in range(3))
    generator = replace(make_generator(), pipeline=FailingPipeline())
    assert generator.run_next()
    threading.Timer(1, gate.unlink).start()
    with pytest.raises(DeviceLostError):
        generator.run_next()
    rows = [read(sessions, job) for job in (finishing, struck, waiting)]
    assert [row.status for row in rows] == [JobStatus.SUCCEEDED, JobStatus.QUEUED, JobStatus.QUEUED]
    assert [row.attempt for row in rows] == [1, 1, 0]
    assert (rows[1].losses, rows[1].transient_failures) == (0, 1)


def test_a_thread_that_outlives_its_deadline_ends_its_process() -> None:
    program = """
import time, uuid
from types import SimpleNamespace
from worker.attempt import HARD_LIMIT_MARGIN_S
from worker.finisher import Finisher

lease = SimpleNamespace(remaining_s=0.2 - HARD_LIMIT_MARGIN_S)
Finisher().start(SimpleNamespace(claim=SimpleNamespace(job_id=uuid.uuid4()), lease=lease), lambda: time.sleep(60))
"""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert (done.returncode, "long after its deadline" in done.stderr) == (1, True), done.stderr
    assert time.monotonic() - started < 45
