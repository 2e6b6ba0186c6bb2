"""The service as processes on this machine: engines, two APIs, two maintainers, M workers; what ends is started again.

Everything here is to be called in the main thread, which the children's death signal is tied to.
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import urllib3

from cli.engines import Child, Postgres, Redis, free_port
from cli.services import Program, run_to_end
from shared.environment import load_settings
from shared.settings import Settings

_APIS = 2
_MAINTAINERS = 2
_READY_LIMIT_S = 120.0
#: what a killed process leaves behind goes on for so long before its successor starts.
_AFTERLIFE_S = 1.0

#: short times, so that many leases run out within minutes.
TIMES = {
    "ANIMATIC_HEARTBEAT_S": "1",
    "ANIMATIC_LEASE_S": "5",
    "ANIMATIC_MAINTAIN_INTERVAL_S": "1",
    "ANIMATIC_DRAIN_GRACE_S": "1",
    "ANIMATIC_RETRY_BASE_S": "0.5",
    "ANIMATIC_RETRY_MAX_S": "5",
    "ANIMATIC_WEBHOOK_TIMEOUT_S": "2",
    "ANIMATIC_WEBHOOK_SCHEDULE_S": "0,0.5,1,2,4,4,4,4,4,4,4,4",
}


@dataclass
class Member:
    """A program that should always run."""

    program: Program
    child: Child
    starts: int = 1
    ended_at: float | None = None

    def pool_child(self) -> psutil.Process | None:
        """A worker's process that holds the pipeline, an API's that answers requests; None: just now there is none."""
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.child.pid).children():
                # Not multiprocessing's resource tracker.
                if self.program.module == "api.serve" or any("spawn_main" in part for part in child.cmdline()):
                    return child
        return None


class Fleet:
    """Everything that runs. `start`, then `mend` again and again, then `stop`."""

    def __init__(self, folder: Path, *, workers: int, env: dict[str, str]) -> None:
        """
        Args:
            env: settings on top of `TIMES`.
        """
        self._folder = folder
        self._workers = workers
        self._env = env
        self.postgres = Postgres(folder / "postgres")
        self.redis = Redis(folder / "redis")
        self.members: list[Member] = []
        self.api_key = "ak_" + secrets.token_urlsafe(32)
        self.urls: list[str] = []

    @property
    def workers(self) -> list[Member]:
        return self.of("worker")

    def of(self, module: str) -> list[Member]:
        return [member for member in self.members if member.program.module == module]

    def start(self) -> None:
        """Returns when jobs can be submitted and every worker has loaded its pipeline; `stop` must follow always.

        Raises:
            StartupError: something cannot start.
        """
        self.postgres.start()
        self.redis.start()
        ports = [free_port() for _ in range(_APIS)]
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        env = self.environment()
        run_to_end(self._program("migrate", "api.admin", env, "migrate"))
        for number, port in enumerate(ports):
            self._add(self._program(f"api-{number}", "api.serve", {**env, "ANIMATIC_API_PORT": str(port)}))
        for number in range(_MAINTAINERS):
            self._add(self._program(f"maintainer-{number}", "worker.maintain", env))
        for number in range(self._workers):
            self._add(self._program(f"worker-{number}", "worker", {**env, "ANIMATIC_MODEL": "double"}))
        self._await_ready()

    def environment(self) -> dict[str, str]:
        """What all processes are told."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANIMATIC_")}
        return {
            **inherited,
            **TIMES,
            "ANIMATIC_DATABASE_URL": self.postgres.url,
            "ANIMATIC_REDIS_URL": self.redis.url,
            "ANIMATIC_OBJECT_STORE": str(self._folder / "objects"),
            "ANIMATIC_PUBLIC_URL": self.urls[0],
            "ANIMATIC_API_WORKERS": "1",
            "ANIMATIC_BOOTSTRAP_API_KEY": self.api_key,
            "ANIMATIC_MODELS": "double",
            **self._env,
        }

    def settings(self) -> Settings:
        """What a process of the fleet would read from its environment."""
        return load_settings(self.environment())

    def mend(self) -> None:
        """Start again what has ended."""
        for member in self.members:
            if member.child.is_running:
                continue
            now = time.monotonic()
            member.ended_at = member.ended_at or now
            if now - member.ended_at > _AFTERLIFE_S:
                # Whatever it left behind goes with its process group.
                member.child.kill()
                member.child, member.ended_at = member.program.start(), None
                member.starts += 1

    def stop(self) -> None:
        for member in self.members:
            member.child.kill()
        with suppress(RuntimeError):
            self.redis.stop()
        with suppress(RuntimeError):
            self.postgres.stop()

    def erase(self) -> None:
        """Remove Postgres' data, which may lie elsewhere. It must be stopped."""
        self.postgres.erase()

    def _program(self, name: str, module: str, env: dict[str, str], *arguments: str) -> Program:
        return Program(name, module, arguments, env, self._folder / "logs" / f"{name}.log", grace_s=10)

    def _add(self, program: Program) -> None:
        self.members.append(Member(program, program.start()))

    def _await_ready(self) -> None:
        deadline = time.monotonic() + _READY_LIMIT_S
        waiting = [*(("api", url) for url in self.urls), *(("log", str(worker.child.log)) for worker in self.workers)]
        while waiting:
            waiting = [item for item in waiting if not _is_ready(*item)]
            if time.monotonic() > deadline:
                raise TimeoutError(f"not ready after {_READY_LIMIT_S:g} s: {waiting}; logs are in {self._folder}/logs")
            self.mend()
            time.sleep(0.2)


def _is_ready(kind: str, where: str) -> bool:
    if kind == "log":
        return b" ready: " in Path(where).read_bytes()
    try:
        return bool(urllib3.request("GET", f"{where}/readyz", retries=False, timeout=5).status == 200)
    except urllib3.exceptions.HTTPError:
        return False
