"""F6: Redis forgets everything, cuts its clients off, restarts empty, or stands still."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr
from trial import Trial

from cli.engines.redis import Redis
from shared.settings import Settings


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path / "redis")
    server.start()
    yield server
    with suppress(ProcessLookupError):
        os.kill(server.pid, signal.SIGCONT)
    server.stop()


@pytest.fixture
def trial(make_trial: Callable[..., Trial], settings: Settings, own_redis: Redis) -> Trial:
    return make_trial(settings.model_copy(update={"redis_url": SecretStr(own_redis.url)}))


def flush(server: Redis) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()


def cut_clients(server: Redis) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def restart_empty(server: Redis) -> None:
    server.kill()
    for path in server.directory.glob("appendonly*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    server.start()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("standstill_s", [3, pytest.param(30, marks=pytest.mark.campaign)])
def test_a_redis_that_forgets_cuts_off_or_stands_still_loses_no_job_and_shows_none_twice(
    trial: Trial, own_redis: Redis, standstill_s: float
) -> None:
    trial.service.start_all()
    for strike in (flush, cut_clients, restart_empty):
        # Longer than the pause between two sweeps: the fault meets one job that runs and two that wait.
        jobs = [trial.submit(num_inference_steps=15) for _ in range(3)]
        trial.await_step(jobs[0])
        strike(own_redis)
        jobs.append(trial.submit())
        for job in jobs:
            trial.await_status(job, "succeeded")
            assert trial.outcomes(job) == ["succeeded"]
    job = trial.submit(num_inference_steps=40)
    trial.await_step(job)
    usual_s = max(seconds_of(trial.submit) for _ in range(3))
    own_redis.child.process.send_signal(signal.SIGSTOP)
    end = time.monotonic() + standstill_s
    while time.monotonic() < end:
        assert seconds_of(trial.submit) < usual_s + 2
        time.sleep(0.5)
    own_redis.child.process.send_signal(signal.SIGCONT)
    trial.judge(within_s=120)
    assert trial.outcomes(job) == ["succeeded"]


def test_a_worker_that_cannot_acknowledge_a_message_goes_on(trial: Trial, own_redis: Redis) -> None:
    """Redis is away just then, and back before the worker asks it for anything else."""
    trial.service.start_all()
    worker = trial.service.processes[-1]
    # Redis must go within the last second of a job; on a busy machine that takes more than one try.
    for _ in range(6):
        job = trial.submit(num_inference_steps=15)
        trial.await_step(job)
        own_redis.kill()
        trial.await_status(job, "succeeded")
        missed = appears_not(worker.log, "Couldn't ack", within_s=2)
        own_redis.start()
        if not missed:
            break
    assert not missed
    trial.await_status(trial.submit(), "succeeded")
    trial.judge()
    assert trial.outcomes(job) == ["succeeded"]


def appears_not(log: Path, words: str, *, within_s: float) -> bool:
    end = time.monotonic() + within_s
    while words not in log.read_text():
        if time.monotonic() > end:
            return True
        time.sleep(0.05)
    return False


def seconds_of(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started
