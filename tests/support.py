"""What tests share: the service as real processes, and a webhook receiver."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import urllib3

from cli.engines import free_port
from cli.loopback import LoopbackServer
from shared.ids import new_id
from shared.processes import die_with_parent
from shared.settings import Settings

BOOTSTRAP_KEY = "ak_" + "t" * 43
PUBLIC_URL = "http://animatic.test"
WORKER_ID = new_id()


@dataclass(frozen=True)
class Engines:
    postgres_url: str
    redis_url: str

    @property
    def admin_url(self) -> str:
        return self.database_url("postgres")

    def database_url(self, name: str) -> str:
        return re.sub(r"/[^/]*$", f"/{name}", self.postgres_url)


def migrate(database_url: str, revision: str = "head") -> None:
    subprocess.run(
        [sys.executable, "-m", "api.admin", "migrate", "--revision", revision],
        env={**os.environ, "ANIMATIC_DATABASE_URL": database_url},
        check=True,
        capture_output=True,
    )


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that run; a zombie has ended, and in a container nobody may be there to collect it."""

    def is_alive(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [process for process in processes if is_alive(process)]


def eventually(check: Callable[[], Any], *, within_s: float = 20, every_s: float = 0.1) -> Any:
    """Ask until the answer is true; return it."""
    end = time.monotonic() + within_s
    while True:
        answer = check()
        if answer:
            return answer
        assert time.monotonic() < end, f"not within {within_s} s: {check}"
        time.sleep(every_s)


@dataclass
class Process:
    popen: subprocess.Popen[bytes]
    log: Path

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.popen.pid).children(recursive=True)

    def pool_child(self) -> psutil.Process:
        """The process that holds a worker's pipeline."""
        (child,) = (child for child in self.children() if any("spawn_main" in part for part in child.cmdline()))
        return child

    def stop(self, *, within_s: float = 30) -> int:
        with suppress(ProcessLookupError):
            self.popen.terminate()
        return self.popen.wait(within_s)


@dataclass
class Service:
    """The service's processes, configured alike; a test starts and kills them one by one."""

    settings: Settings
    logs: Path
    processes: list[Process] = field(default_factory=list)
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, **changes: object) -> dict[str, str]:
        values = {
            **{name: value for name, value in self.settings if name in self.settings.model_fields_set},
            "public_url": self.url,
            "api_port": self.port,
            "api_workers": 1,
            **changes,
        }
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANIMATIC_")}
        for name, value in values.items():
            if hasattr(value, "get_secret_value"):
                value = value.get_secret_value()
            environment[f"ANIMATIC_{name.upper()}"] = (
                ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            )
        return environment

    def start(self, module: str, prefix: Sequence[str] = (), **changes: object) -> Process:
        """Does not wait.

        Args:
            prefix: a command that runs the one after it.
        """
        self.logs.mkdir(exist_ok=True)
        log = self.logs / f"{len(self.processes)}-{module}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [*prefix, sys.executable, "-m", module],
                env=self.environment(**changes),
                stdout=output,
                stderr=output,
                start_new_session=True,  # a process group of its own, as a service manager gives it
                preexec_fn=die_with_parent,  # which a Ctrl-C at the tests does not reach
            )
        process = Process(popen, log)
        self.processes.append(process)
        return process

    def start_api(self, **changes: object) -> Process:
        process = self.start("api.serve", **changes)
        self.await_api(process)
        return process

    def start_worker(self, model: str = "double", **changes: object) -> Process:
        """Returns once the pipeline is loaded."""
        process = self.start("worker", model=model, **changes)
        self.await_worker(process)
        return process

    def start_maintainer(self, **changes: object) -> Process:
        return self.start("worker.maintain", **changes)

    def start_all(self, model: str = "double", **changes: object) -> None:
        """All three at once; the worker is the last of `processes`."""
        api = self.start("api.serve", **changes)
        self.start_maintainer(**changes)
        worker = self.start("worker", model=model, **changes)
        self.await_api(api)
        self.await_worker(worker)

    def request(self, method: str, path: str, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {BOOTSTRAP_KEY}", **options.pop("headers", {})}
        url = path if path.startswith("http") else self.url + path
        options = {"retries": False, "timeout": 65, **options}
        return urllib3.request(method, url, headers=headers, **options)

    def submit(self, image: bytes, **fields: Any) -> dict[str, Any]:
        fields = {"model": "double", **fields}
        form = {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in fields.items()}
        answer = self.request("POST", "/v1/jobs", fields={**form, "image": ("photo.jpg", image)})
        assert answer.status == 202, answer.data
        return answer.json()

    def job(self, job_id: str, wait_s: float = 0) -> dict[str, Any]:
        return self.request("GET", f"/v1/jobs/{job_id}?wait={wait_s}").json()

    def await_status(self, job_id: str, status: str, *, within_s: float = 30) -> dict[str, Any]:
        def check() -> dict[str, Any] | None:
            job = self.job(job_id)
            assert job["status"] == status or job["finished_at"] is None, job
            return job if job["status"] == status else None

        return eventually(check, within_s=within_s)

    def stop_all(self) -> None:
        for process in reversed(self.processes):
            if process.popen.poll() is None:
                for child in process.children():
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
                process.popen.kill()
            process.popen.wait(10)

    def await_api(self, process: Process) -> None:
        """Wait until it is ready."""
        eventually(lambda: self._is_ready(process), within_s=60)

    def await_worker(self, process: Process) -> None:
        """Wait until its pipeline is loaded."""
        eventually(lambda: b" ready: " in process.log.read_bytes() or process.popen.poll() is not None, within_s=90)
        assert process.popen.poll() is None, process.log.read_text()

    def _is_ready(self, process: Process) -> bool:
        assert process.popen.poll() is None, process.log.read_text()
        try:
            return bool(self.request("GET", "/readyz").status == 200)
        except urllib3.exceptions.HTTPError:
            return False


class Receiver(LoopbackServer):
    """A webhook receiver that answers as it is told, and keeps what it got."""

    def __init__(self, answers: Sequence[int], *, retry_after_s: int | None, delay_s: float) -> None:
        super().__init__()
        self.answers = list(answers)
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self._retry_after_s = retry_after_s
        self._delay_s = delay_s

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        self.requests.append(({name.lower(): value for name, value in request.headers.items()}, body))
        time.sleep(self._delay_s)
        request.send_response(self.answers.pop(0) if self.answers else 200)
        if self._retry_after_s is not None:
            request.send_header("Retry-After", str(self._retry_after_s))
        request.send_header("Content-Length", "0")
        request.end_headers()


def webhook_receiver(*answers: int, retry_after_s: int | None = None, delay_s: float = 0) -> Receiver:
    """Answers with these codes in turn, then with 200."""
    return Receiver(answers, retry_after_s=retry_after_s, delay_s=delay_s)
