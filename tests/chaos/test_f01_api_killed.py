"""F1: the API is killed before its commit, or after the commit and before the doorbell."""

from __future__ import annotations

import threading

import pytest
import urllib3
from fault_proxy import Fault, FaultProxy, Kind
from sqlalchemy import text
from support import eventually
from trial import Trial, kill


class Caller(threading.Thread):
    """Sends one request and notes whether it was answered at all."""

    def __init__(self, trial: Trial, key: str) -> None:
        super().__init__()
        self.status: int | None = None
        self._trial, self._key = trial, key

    def run(self) -> None:
        try:
            self.status = self._trial.offer(key=self._key).status
        except urllib3.exceptions.HTTPError:
            self.status = None


def test_an_api_killed_before_its_commit_has_accepted_nothing(trial: Trial) -> None:
    api = trial.service.start_api()
    with trial.engine.connect() as blocker:
        blocker.execute(text("LOCK TABLE job_events IN ACCESS EXCLUSIVE MODE"))
        caller = Caller(trial, "once")
        caller.start()
        eventually(lambda: trial.count_waiting_for("job_events", "animatic-api"))
        kill(api)
        caller.join()
    assert caller.status is None
    assert trial.count_jobs() == 0
    trial.service.start_all()
    trial.await_status(trial.offer(key="once").json()["id"], "succeeded")
    assert trial.count_jobs() == 1
    trial.judge()


def test_an_api_killed_between_commit_and_doorbell_has_accepted_the_job(trial: Trial) -> None:
    redis_url = trial.service.settings.redis_url.get_secret_value()
    with FaultProxy(redis_url) as redis:
        redis.set(Fault(Kind.FREEZE))
        api = trial.service.start_api(redis_url=redis.url(redis_url))
        caller = Caller(trial, "once")
        caller.start()
        eventually(trial.count_jobs, every_s=0.01)
        kill(api)
        caller.join()
    assert caller.status is None
    trial.service.start_all()
    again = trial.offer(key="once")
    assert (again.status, again.headers["Idempotent-Replayed"]) == (202, "true")
    trial.await_status(again.json()["id"], "succeeded")
    assert trial.count_jobs() == 1
    trial.judge()


pytestmark = pytest.mark.timeout(120)
