"""F14 and F15: jobs keep coming while workers, maintainers and API processes are killed at random."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
import urllib3
from support import Process, Service, webhook_receiver
from trial import Trial, kill, open_port

from shared.settings import Settings


class Monkey:
    """Kills one of several processes of a kind, and starts another in its place."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._kinds: list[tuple[list[Process], Callable[[], Process]]] = []
        self.kills = 0

    def keep(self, count: int, start: Callable[[], Process]) -> list[Process]:
        processes = [start() for _ in range(count)]
        self._kinds.append((processes, start))
        return processes

    def strike(self) -> None:
        processes, start = self._random.choice(self._kinds)
        index = self._random.randrange(len(processes))
        kill(processes[index])
        processes[index] = start()
        self.kills += 1


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("num_jobs", "kills", "of_each", "seed"),
    [
        pytest.param(24, 4, 2, 1, id="few"),
        pytest.param(40, 8, 1, 2, id="one of each", marks=pytest.mark.campaign),
        pytest.param(600, 60, 2, 3, id="many", marks=pytest.mark.campaign),
    ],
)
def test_random_kills_end_every_job_once_with_one_delivery(
    make_trial: Callable[..., Trial], settings: Settings, num_jobs: int, kills: int, of_each: int, seed: int
) -> None:
    with webhook_receiver() as receiver:
        # Bad luck may hit one job more often than a fault does.
        changes = {**open_port(receiver.url), "max_losses": 50, "webhook_schedule_s": (0, 1, 1, 1)}
        trial = make_trial(settings.model_copy(update=changes))
        service, monkey = trial.service, Monkey(seed)
        apis = [Service(service.settings, service.logs / f"api-{number}") for number in range(of_each)]
        service.logs.mkdir()
        try:
            for api in apis:
                (first,) = monkey.keep(1, lambda api=api: api.start("api.serve", public_url=service.url))
                api.await_api(first)
            monkey.keep(of_each, service.start_maintainer)
            monkey.keep(2, lambda: service.start("worker", model="double"))
            made = attempts = 0
            while made < num_jobs or monkey.kills < kills:
                if made < num_jobs:
                    attempts += 1
                    api = apis[attempts % of_each]
                    made += offer(trial, api.url, key=f"job-{made}", webhook_url=receiver.url)
                if attempts * kills >= monkey.kills * num_jobs and monkey.kills < kills:
                    monkey.strike()
                time.sleep(0.05)
            assert len(trial.ledger.accepted) == trial.count_jobs() == num_jobs
            trial.judge(within_s=60 + num_jobs)
        finally:
            for api in apis:
                api.stop_all()
        sent = {headers["webhook-id"] for headers, _ in receiver.requests}
        assert len(sent) == num_jobs


def offer(trial: Trial, url: str, **fields: Any) -> bool:
    """Whether the job is accepted; the key makes it safe to ask again."""
    try:
        return bool(trial.offer(url=url, timeout_s=10, num_inference_steps=4, **fields).status == 202)
    except urllib3.exceptions.HTTPError:
        return False
