"""Requests per key: one count for all API processes, told in headers, and what holds while Redis is away."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from api.rate_limit import RateLimiter
from cli.engines import free_port
from shared.ids import new_id
from shared.settings import Settings


def standing(answer: Any) -> tuple[int, int, int, int]:
    """Limit, window, remaining, seconds to the reset; as a strict reader of the draft takes them."""
    policy = re.fullmatch(r'"key";q=(\d+);w=(\d+)', answer.headers["RateLimit-Policy"])
    now = re.fullmatch(r'"key";r=(\d+);t=(\d+)', answer.headers["RateLimit"])
    assert policy is not None
    assert now is not None
    return int(policy[1]), int(policy[2]), int(now[1]), int(now[2])


def test_a_key_is_told_how_much_is_left_and_then_when_to_come_again(make_client: Any) -> None:
    client = make_client(rate_limit_per_minute=3)
    for left in (2, 1, 0):
        answer = client.get("/v1/jobs")
        limit, window, remaining, reset = standing(answer)
        assert (answer.status_code, limit, window, remaining) == (200, 3, 60, left)
        assert 1 <= reset <= 60
    refused = client.get("/v1/jobs")
    assert (refused.status_code, refused.json["code"]) == (429, "rate_limited")
    assert refused.headers["Retry-After"] == str(standing(refused)[3])
    assert standing(refused)[2] == 0
    assert "at most 3 requests a minute" in refused.json["detail"]


def test_all_api_processes_count_together_and_each_key_for_itself(make_client: Any) -> None:
    clients = [make_client(rate_limit_per_minute=5) for _ in range(2)]
    other = clients[0].post("/v1/keys", json={"name": "other"}).json["key"]
    answers = [clients[n % 2].get("/v1/jobs").status_code for n in range(6)]
    assert answers == [200] * 4 + [429] * 2
    assert clients[0].get("/v1/jobs", headers={"Authorization": f"Bearer {other}"}).status_code == 200


def test_whatever_the_answer_is_the_request_counts(make_client: Any) -> None:
    client = make_client(rate_limit_per_minute=3)
    assert [client.get(path).status_code for path in ("/v1/nothing", "/v1/jobs/x", "/v1/jobs?limit=0")] == [
        404,
        404,
        422,
    ]
    assert client.get("/v1/jobs").status_code == 429
    # Probes have no key, and strangers no count.
    assert {client.get("/healthz").status_code for _ in range(5)} == {200}
    answer = client.get("/v1/jobs", headers={"Authorization": "Bearer x"})
    assert (answer.status_code, "RateLimit" in answer.headers) == (401, False)


def test_without_a_limit_there_is_neither_count_nor_header(make_client: Any) -> None:
    client = make_client(rate_limit_per_minute=0)
    assert not {"RateLimit", "RateLimit-Policy"} & set(client.get("/v1/jobs").headers.keys())


def test_while_redis_is_down_requests_are_served_and_each_process_counts_for_itself(make_client: Any) -> None:
    down = f"redis://127.0.0.1:{free_port()}/0"
    first, second = (make_client(rate_limit_per_minute=3, redis_url=down) for _ in range(2))
    assert [first.get("/v1/jobs").status_code for _ in range(4)] == [200, 200, 200, 429]
    answer = second.get("/v1/jobs")
    assert (answer.status_code, standing(answer)[2]) == (200, 2)


@contextmanager
def frozen_server() -> Iterator[tuple[int, list[int]]]:
    """A port that accepts and never answers, and how often it was asked."""
    accepted: list[int] = []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        connections = []

        def accept() -> None:
            while True:
                try:
                    connection, address = listener.accept()
                except OSError:
                    return
                connections.append(connection)
                accepted.append(address[1])

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1], accepted
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in connections:
                connection.close()


def test_a_frozen_redis_is_waited_for_once_and_not_by_every_request(settings: Settings) -> None:
    with frozen_server() as (port, asked):
        url = SecretStr(f"redis://127.0.0.1:{port}/0")
        limiter = RateLimiter(settings.model_copy(update={"redis_url": url}), clock=lambda: 0.0)
        key = new_id()
        assert all(found is not None and found.is_allowed for found in (limiter.hit(key) for _ in range(50)))
        assert len(asked) == 1
        limiter.close()


def test_when_redis_is_back_its_count_holds_again(settings: Settings, redis_url: str) -> None:
    clock = [0.0]
    limits = settings.model_copy(update={"rate_limit_per_minute": 2})
    limiter = RateLimiter(limits, clock=lambda: clock[0])
    key = new_id()
    with redis.Redis.from_url(redis_url) as client:
        limiter.hit(key)
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        client.execute_command("CLIENT", "PAUSE", "600", "ALL")
        assert limiter.hit(key).is_allowed  # type: ignore[union-attr]
    # Its pause is over: the first of these is counted in Redis, where one was before.
    clock[0] = 60.0
    with redis.Redis.from_url(redis_url) as client:
        client.ping()
    assert [limiter.hit(key).is_allowed for _ in range(2)] == [True, False]  # type: ignore[union-attr]
    limiter.close()


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_every_kind_of_url_that_the_doorbell_takes_makes_a_limiter(settings: Settings, scheme: str) -> None:
    url = SecretStr(f"{scheme}://:secret@127.0.0.1:{free_port()}/0")
    limiter = RateLimiter(settings.model_copy(update={"redis_url": url}))
    assert limiter.hit(new_id()) is not None
    limiter.close()
