"""F14 and F15: jobs, experiments and deletions keep coming while workers, maintainers and APIs are killed at random."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import urllib3
from support import Process, Service, webhook_receiver
from trial import Trial, kill, open_port

from shared.settings import Settings

#: what is killed is the point, not what is encoded.
_SMALL = {"num_inference_steps": 4, "num_frames": 2, "width": 64, "height": 64}


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
    ("num_requests", "kills", "of_each", "seed"),
    [
        pytest.param(24, 4, 2, 1, id="few"),
        pytest.param(40, 8, 1, 2, id="one of each", marks=pytest.mark.campaign),
        pytest.param(600, 60, 2, 3, id="many", marks=pytest.mark.campaign),
    ],
)
def test_random_kills_end_every_job_once_with_one_delivery(
    make_trial: Callable[..., Trial], settings: Settings, num_requests: int, kills: int, of_each: int, seed: int
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
            while made < num_requests or monkey.kills < kills:
                if made < num_requests:
                    attempts += 1
                    made += offer(trial, apis[attempts % of_each].url, made, receiver.url)
                if attempts * kills >= monkey.kills * num_requests and monkey.kills < kills:
                    monkey.strike()
                time.sleep(0.05)
            jobs, experiments = trial.ledger.accepted, trial.ledger.experiments
            assert len(jobs) + len(experiments) == num_requests
            assert trial.count_jobs() == len(jobs) + 2 * len(experiments)
            trial.judge(within_s=60 + num_requests)
        finally:
            for api in apis:
                api.stop_all()
        sent = {headers["webhook-id"] for headers, _ in receiver.requests}
        assert len(sent) == sum(kind(number) != "deleted" for number in range(num_requests))


def kind(number: int) -> str:
    return {3: "experiment", 5: "deleted"}.get(number % 8, "job")


def offer(trial: Trial, url: str, number: int, webhook_url: str) -> bool:
    """Whether the request is accepted; its key makes it safe to ask again."""
    options: dict[str, Any] = {"url": url, "timeout_s": 10, "key": f"key-{number}"}
    try:
        if kind(number) == "experiment":
            return bool(trial.offer_experiment(webhook_url=webhook_url, base=_SMALL, **options).status == 202)
        if kind(number) == "job":
            return bool(trial.offer(webhook_url=webhook_url, **_SMALL, **options).status == 202)
        answer = trial.offer(**_SMALL, **options)
        if answer.status == 202:
            with suppress(urllib3.exceptions.HTTPError):  # killed meanwhile; it stays, then
                trial.service.request("DELETE", f"{url}/v1/jobs/{answer.json()['id']}", timeout=10)
        return bool(answer.status == 202)
    except urllib3.exceptions.HTTPError:
        return False
