"""The doorbell: Celery messages that say "there is work". They carry no authority; losing one costs only time.

The producer has its own options. With a worker's (long time-outs, retries) a frozen Redis blocks each publisher for
tens of seconds; here an outage costs about a second once, and then nothing until the pause is over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from shared.breaker import Breaker
from shared.errors import QueueError
from shared.settings import Settings

TASK_NAME = "animatic.generate"
KEY_PREFIX = "animatic:"

_TIMEOUT_S = 1.0
_PAUSE_S = 5.0
_CONNECTIONS = 4


class Doorbell:
    """Rings for workers, and counts what rings already. Safe to share between threads."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        url = settings.redis_url.get_secret_value()
        timeouts = {"socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S}
        self._app = Celery("animatic-producer", broker=url, set_as_current=False)
        self._app.conf.update(
            task_ignore_result=True,
            broker_transport_options={**timeouts, "global_keyprefix": KEY_PREFIX, "max_retries": 0},
            broker_connection_timeout=_TIMEOUT_S,
            broker_pool_limit=_CONNECTIONS,
        )
        self._redis = redis.Redis.from_url(url, **timeouts, retry=None)
        self._slots = threading.Semaphore(_CONNECTIONS)
        self._breaker = Breaker(pause_s=_PAUSE_S, clock=clock)

    def ring(self, queue: str, job: str) -> bool:
        """Publish one message, best effort. False: Redis is not answering; the sweep will ring again.

        Args:
            queue: the model's, from the catalogue.
            job: the job's id, for people who read logs; the worker takes whatever is best.
        """
        # Asked again with a slot in hand: whoever waited for it has learned meanwhile.
        if not self._breaker.may_try() or not self._slots.acquire(timeout=_TIMEOUT_S):
            return False
        try:
            if not self._breaker.may_try(is_about_to=True):
                return False
            self._app.send_task(TASK_NAME, kwargs={"job": job}, queue=queue, retry=False, ignore_result=True)
        except (OperationalError, redis.RedisError, OSError):
            self._breaker.note(is_broken=True)
            return False
        finally:
            self._slots.release()
        self._breaker.note(is_broken=False)
        return True

    def check(self) -> None:
        """Ask Redis for a sign of life, even where `ring` has given it up for a while.

        Raises:
            QueueError: it is not answering.
        """
        try:
            self._redis.ping()
        except (redis.RedisError, OSError) as error:
            raise QueueError("Redis is not answering") from error

    def count_waiting(self, queue: str) -> int:
        """Messages that no worker has fetched yet.

        Raises:
            QueueError: Redis is not answering.
        """
        try:
            return int(self._redis.llen(f"{KEY_PREFIX}{queue}"))
        except (redis.RedisError, OSError) as error:
            raise QueueError("Redis is not answering") from error

    def close(self) -> None:
        self._app.close()
        self._redis.close()
