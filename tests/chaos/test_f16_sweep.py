"""F16: API and worker are killed in the middle of a sweep."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import SAMPLES
from sqlalchemy import select
from support import BOOTSTRAP_KEY, Process, eventually
from trial import Trial, everyone, freeze, kill, thaw

from shared.ids import show_id
from shared.states import AttemptOutcome, JobStatus
from shared.tables import Attempt, Job

_VALUES = (60, 120, 180)


def freeze_at_work(trial: Trial, worker: Process) -> str | None:
    """Freeze the worker in the middle of a job, which is returned; None: it had none, and goes on."""
    processes = everyone(worker)
    freeze(processes)
    with trial.sessions() as session:
        job_id = session.scalar(select(Job.id).where(Job.status == JobStatus.RUNNING, Job.step > 0))
    if job_id is None:
        thaw(processes)
        return None
    return show_id("job", job_id)


@pytest.mark.timeout(120)
def test_a_sweep_through_the_end_of_api_and_worker_is_complete_and_makes_nothing_twice(
    trial: Trial, tmp_path: Path
) -> None:
    worker = trial.start()
    api = trial.service.processes[-1]
    options = ("--model", "double", "--num-inference-steps", "30", "--width", "128", "--height", "64")
    sweep = subprocess.Popen(
        [
            *(sys.executable, "-m", "cli", "sweep", str(SAMPLES / "rocket.jpg"), str(SAMPLES / "chelsea.png")),
            *(*options, "--num-frames", "3", "--seed", "1", "-o", str(tmp_path / "results")),
            *("--motion-bucket-id", ",".join(map(str, _VALUES))),
        ],
        env={**os.environ, "ANIMATIC_URL": trial.service.url, "ANIMATIC_API_KEY": BOOTSTRAP_KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        eventually(lambda: trial.count_jobs(JobStatus.SUCCEEDED))
        kill(api)
        lost = eventually(lambda: freeze_at_work(trial, worker))
        kill(worker)
        trial.service.start("worker", model="double")
        trial.service.start("api.serve")
        _, said = sweep.communicate(timeout=60)
    finally:
        sweep.kill()
    assert sweep.returncode == 0, said
    assert "waiting for the service" in said
    with (tmp_path / "results" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["succeeded"] * 2 * len(_VALUES)
    with trial.sessions() as session:
        jobs = session.scalars(select(Job)).all()
        outcomes = Counter(
            session.execute(select(Attempt.job_id).where(Attempt.outcome == AttemptOutcome.SUCCEEDED)).scalars()
        )
    # One job for each cell, each of which succeeded once; the one that was cut off was begun anew.
    assert {show_id("job", job.id) for job in jobs} == {row["job"] for row in rows}
    assert set(outcomes.values()) == {1}
    assert outcomes.total() == trial.count_jobs(JobStatus.SUCCEEDED) == len(rows)
    assert trial.outcomes(lost) == ["lost", "succeeded"]
    trial.judge()
