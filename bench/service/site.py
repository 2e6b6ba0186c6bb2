"""What is compared, as processes on this machine: the engines once, and one program of each kind beside the others."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import urllib3

from cli.engines import Child, free_port, run_postgres, run_redis
from cli.services import Program, run_to_end
from shared.environment import load_settings
from shared.settings import Settings

ROOT = Path(__file__).parent.parent.parent
PHOTO = ROOT / "docs" / "samples" / "rocket.jpg"

_READY_LIMIT_S = 120.0


@dataclass
class Site:
    """Where everything is. Use through `open_site`."""

    folder: Path
    database_url: str
    redis_url: str
    #: `svd` has no worker here: its jobs only wait.
    models: str = "double,tiny,svd"
    api_key: str = field(default_factory=lambda: "ak_" + secrets.token_urlsafe(32))
    api_port: int = field(default_factory=free_port)
    bare_port: int = field(default_factory=free_port)

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def bare_url(self) -> str:
        return f"http://127.0.0.1:{self.bare_port}"

    def environment(self, **changes: str) -> dict[str, str]:
        """What the programs are told: the service's settings at their defaults but for the addresses."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANIMATIC_")}
        return {
            **inherited,
            "PYTHONPATH": str(ROOT),
            "ANIMATIC_DATABASE_URL": self.database_url,
            "ANIMATIC_REDIS_URL": self.redis_url,
            "ANIMATIC_OBJECT_STORE": str(self.folder / "objects"),
            "ANIMATIC_PUBLIC_URL": self.api_url,
            "ANIMATIC_API_PORT": str(self.api_port),
            "ANIMATIC_BOOTSTRAP_API_KEY": self.api_key,
            "ANIMATIC_MODELS": self.models,
            "ANIMATIC_MODEL": "double",
            "ANIMATIC_QUEUED_JOBS_MAX": "1000000",
            # Counted, as for everybody, but never reached.
            "ANIMATIC_RATE_LIMIT_PER_MINUTE": "1000000000",
            "BENCH_REDIS_URL": self.redis_url,
            "BENCH_DATABASE_URL": self.database_url,
            **changes,
        }

    def settings(self) -> Settings:
        return load_settings(self.environment())

    def program(self, name: str, module: str, *arguments: str, env: Mapping[str, str] | None = None) -> Program:
        return Program(name, module, arguments, env or self.environment(), self.folder / "logs" / f"{name}.log", 10)

    @contextmanager
    def running(self, program: Program, *, ready: str) -> Iterator[Child]:
        """Run a program until the end of the block, which begins when it is ready.

        Args:
            ready: a URL that answers 200, or words in its log.
        """
        child = program.start()
        try:
            _await_ready(child, ready)
            yield child
        finally:
            child.stop()


@contextmanager
def open_service(folder: Path, **fields: str) -> Iterator[Site]:
    """Engines, the API's tables, and the API; `fields` of the site that are not its defaults."""
    with ExitStack() as stack:
        database_url = stack.enter_context(run_postgres(folder / "postgres"))
        redis_url = stack.enter_context(run_redis(folder / "redis"))
        site = Site(folder, database_url, redis_url, **fields)
        run_to_end(site.program("migrate", "api.admin", "migrate"))
        stack.enter_context(site.running(site.program("api", "api.serve"), ready=f"{site.api_url}/readyz"))
        yield site


@contextmanager
def open_site(folder: Path) -> Iterator[Site]:
    """The service, and the bare endpoint beside it under the same gunicorn settings."""
    with open_service(folder) as site:
        bare = site.program("bare", "bench.service.bare", env=site.environment(ANIMATIC_API_PORT=str(site.bare_port)))
        with site.running(bare, ready=f"{site.bare_url}/readyz"):
            yield site


def _await_ready(child: Child, ready: str) -> None:
    deadline = time.monotonic() + _READY_LIMIT_S
    while not _is_ready(child, ready):
        if not child.is_running or time.monotonic() > deadline:
            raise RuntimeError(f"{child.name} is not ready:\n{child.log_tail()}")
        time.sleep(0.1)


def _is_ready(child: Child, ready: str) -> bool:
    if not ready.startswith("http"):
        return ready.encode() in child.log.read_bytes()
    try:
        return bool(urllib3.request("GET", ready, retries=False, timeout=5).status == 200)
    except urllib3.exceptions.HTTPError:
        return False
