"""The monkey: kills, cuts and freezes parts of the fleet, in an order that its seed fixes."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import psutil
import psycopg
import redis

from bench.soak.fleet import Fleet, Member

_TIMEOUT_S = 3.0


class Monkey:
    """Deals its strokes like cards: after a round of the deck each kind has been used as often as it stands there."""

    def __init__(self, fleet: Fleet, *, seed: int, every_s: float, lease_s: float) -> None:
        """
        Args:
            every_s: the mean pause between two strokes.
            lease_s: a frozen worker sleeps a little longer.
        """
        self._fleet = fleet
        self._random = random.Random(seed)
        self._every_s = every_s
        self._freeze_s = 1.3 * lease_s
        self._deck: list[str] = []
        self._next_at = time.monotonic() + self._random.uniform(0.5, 1.0) * every_s
        #: who sleeps, and until when.
        self._frozen: list[tuple[float, Member]] = []
        self.strokes: Counter[str] = Counter()
        self._kinds: dict[str, tuple[int, Callable[[], None]]] = {
            "worker's child killed": (2, partial(self._kill_child_of, "worker")),
            "worker's parent killed": (2, partial(self._kill, "worker")),
            "worker's group killed": (1, self._kill_worker_group),
            "worker frozen past its lease": (2, self._freeze_worker),
            "worker told to stop": (1, self._stop_worker),
            "API killed": (1, partial(self._kill, "api.serve")),
            "API's child killed": (1, partial(self._kill_child_of, "api.serve")),
            "maintainer killed": (2, partial(self._kill, "worker.maintain")),
            "Redis' clients cut": (1, partial(self._ask_redis, "CLIENT KILL TYPE normal")),
            "Redis emptied": (1, partial(self._ask_redis, "FLUSHALL")),
            "Redis killed": (1, self._restart_redis),
            "Postgres' backends cut": (2, self._cut_backends),
            "Postgres killed": (1, self._restart_postgres),
        }

    def play(self) -> None:
        """Strike if it is time; to be called several times a second, in the main thread."""
        self._thaw()
        now = time.monotonic()
        if now >= self._next_at:
            self._strike()
            self._next_at = time.monotonic() + self._random.uniform(0.5, 1.5) * self._every_s

    def rest(self) -> None:
        """Wake who sleeps; nothing more happens."""
        self._thaw(everyone=True)

    def _strike(self) -> None:
        if not self._deck:
            self._deck = [kind for kind, (copies, _) in self._kinds.items() for _ in range(copies)]
            self._random.shuffle(self._deck)
        kind = self._deck.pop()
        # What is not there at this moment cannot be killed.
        with suppress(psutil.NoSuchProcess, ProcessLookupError, psycopg.Error, redis.RedisError):
            self._kinds[kind][1]()
            self.strokes[kind] += 1

    def _pick(self, module: str) -> Member:
        running = [member for member in self._fleet.of(module) if member.child.is_running]
        if not running:
            raise ProcessLookupError(module)
        return self._random.choice(running)

    def _kill(self, module: str) -> None:
        os.kill(self._pick(module).child.pid, signal.SIGKILL)

    def _kill_child_of(self, module: str) -> None:
        child = self._pick(module).pool_child()
        if child is None:
            raise ProcessLookupError(module)
        child.kill()

    def _kill_worker_group(self) -> None:
        os.killpg(self._pick("worker").child.pid, signal.SIGKILL)

    def _stop_worker(self) -> None:
        self._pick("worker").child.ask_to_stop()

    def _freeze_worker(self) -> None:
        member = self._pick("worker")
        os.killpg(member.child.pid, signal.SIGSTOP)
        self._frozen.append((time.monotonic() + self._freeze_s, member))

    def _thaw(self, *, everyone: bool = False) -> None:
        now = time.monotonic()
        for until, member in list(self._frozen):
            if everyone or now >= until:
                with suppress(ProcessLookupError):
                    os.killpg(member.child.pid, signal.SIGCONT)
                self._frozen.remove((until, member))

    def _ask_redis(self, command: str) -> None:
        with redis.Redis.from_url(self._fleet.redis.url, socket_timeout=_TIMEOUT_S) as client:
            client.execute_command(*command.split())

    def _restart_redis(self) -> None:
        self._fleet.redis.kill()
        self._fleet.redis.start()

    def _cut_backends(self) -> None:
        with psycopg.connect(self._fleet.postgres.url, autocommit=True, connect_timeout=3) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )

    def _restart_postgres(self) -> None:
        self._fleet.postgres.kill()
        self._fleet.postgres.start()
