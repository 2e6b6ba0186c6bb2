"""F1: the API is killed before its commit, or after the commit and before the doorbell."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import urllib3
from fault_proxy import Fault, FaultProxy, Kind
from sqlalchemy import text
from support import eventually
from trial import EITHER, Trial, kill

Offer = Callable[..., Any]


class Caller(threading.Thread):
    """Sends one request and notes whether it was answered at all."""

    def __init__(self, trial: Trial, offer: Offer) -> None:
        super().__init__()
        self.status: int | None = None
        self._trial, self._offer = trial, offer

    def run(self) -> None:
        try:
            self.status = self._offer(self._trial, key="once").status
        except urllib3.exceptions.HTTPError:
            self.status = None


@EITHER
def test_an_api_killed_before_its_commit_has_accepted_nothing(trial: Trial, offer: Offer, num_jobs: int) -> None:
    api = trial.service.start_api()
    with trial.engine.connect() as blocker:
        blocker.execute(text("LOCK TABLE job_events IN ACCESS EXCLUSIVE MODE"))
        caller = Caller(trial, offer)
        caller.start()
        eventually(lambda: trial.count_waiting_for("job_events", "animatic-api"))
        kill(api)
        caller.join()
    assert caller.status is None
    assert trial.count_jobs() == 0
    trial.service.start_all()
    assert offer(trial, key="once").status == 202
    trial.judge()
    assert trial.count_jobs() == trial.count_jobs("succeeded") == num_jobs


@EITHER
def test_an_api_killed_between_commit_and_doorbell_has_accepted(trial: Trial, offer: Offer, num_jobs: int) -> None:
    redis_url = trial.service.settings.redis_url.get_secret_value()
    with FaultProxy(redis_url) as redis:
        redis.set(Fault(Kind.FREEZE))
        api = trial.service.start_api(redis_url=redis.url(redis_url))
        caller = Caller(trial, offer)
        caller.start()
        eventually(trial.count_jobs, every_s=0.01)
        kill(api)
        caller.join()
    assert caller.status is None
    trial.service.start_all()
    again = offer(trial, key="once")
    assert (again.status, again.headers["Idempotent-Replayed"]) == (202, "true")
    trial.judge()
    assert trial.count_jobs() == trial.count_jobs("succeeded") == num_jobs


pytestmark = pytest.mark.timeout(120)
