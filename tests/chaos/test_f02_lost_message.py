"""F2: the message is gone from Redis with the worker that fetched it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from support import eventually
from trial import Trial, everyone, freeze, kill, thaw

from shared.doorbell import KEY_PREFIX, Doorbell

_QUEUE = "generate.double"


@pytest.fixture
def doorbell(trial: Trial) -> Iterator[Doorbell]:
    doorbell = Doorbell(trial.service.settings)
    doorbell.ring("elsewhere", "warm-up")  # so that it has its connection
    yield doorbell
    doorbell.close()


def test_a_message_that_dies_with_its_worker_is_rung_again(trial: Trial, doorbell: Doorbell) -> None:
    service = trial.service
    nobody_hears = {"redis_url": "redis://127.0.0.1:1/0"}
    worker = trial.start(api=nobody_hears, maintainer=nobody_hears)
    job = trial.submit()
    with redis.Redis.from_url(service.settings.redis_url.get_secret_value()) as queue:

        def steal() -> bool:
            """Whether Redis gave the message to the connection that waits for it, which is not always there."""
            freeze(everyone(worker))
            doorbell.ring(_QUEUE, job)
            if queue.llen(f"{KEY_PREFIX}{_QUEUE}") == 0:
                return True
            queue.flushall()
            thaw(everyone(worker))
            return False

        eventually(steal)
        kill(worker)
        assert queue.hlen(f"{KEY_PREFIX}unacked") == 0
        assert trial.outcomes(job) == []
        service.start_worker()
        assert trial.row(job).status == "queued"
        service.start_maintainer()
    trial.await_status(job, "succeeded")
    assert trial.outcomes(job) == ["succeeded"]
    trial.judge()
