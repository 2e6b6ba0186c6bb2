"""The whole service on one machine: engines, migrations, API, maintainer and workers as children of this process."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from cli.data_folder import DataFolder
from cli.engines import Postgres, Redis, free_port
from cli.gpus import count_gpus
from cli.place import Place
from cli.services import FINAL_CODES, Program, Service, describe_exit, run_to_end
from shared.catalogue import BUILT_IN, find_entry
from shared.environment import load_settings
from shared.errors import StartupError
from shared.exit_codes import ExitCode

_READY_LIMIT_S = 600.0
_PORT_PATIENCE_S = 10.0
_DRAIN_GRACE_S = 2.0


@dataclass(frozen=True)
class StackOptions:
    """What `animatic up` was asked for."""

    host: str
    #: 0: any free one.
    port: int
    data_dir: Path
    #: catalogue name, directory, or NAME=DIRECTORY.
    model: str
    #: settings for the servers that go before those of the user's environment.
    env: Mapping[str, str] = field(default_factory=dict)


class Stack:
    """Everything that `animatic up` runs. `start`, then `check` again and again, then `stop`."""

    def __init__(self, options: StackOptions, *, say: Callable[[str], None], is_stopping: Callable[[], bool]) -> None:
        """
        Args:
            say: told what is happening, a line at a time.
            is_stopping: asked between the steps of `start`, which then ends early.
        """
        self.options = options
        self.folder = DataFolder(options.data_dir.absolute())
        self.place = Place("", "")
        self._say = say
        self._is_stopping = is_stopping
        self._engines: list[Postgres | Redis] = []
        self._services: list[Service] = []

    def start(self) -> None:
        """Start everything in order; whoever calls this calls `stop` too, also when it fails.

        Raises:
            StartupError: something cannot start; one sentence, and the exit code to end with.
        """
        # What is wrong with what was asked for is better told before anything is started.
        entry = find_entry(self.options.model)
        load_settings()
        _check_model(self.options.model)
        if not _is_loopback(self.options.host) and not self.folder.has_key():
            raise StartupError(
                f"listening on {self.options.host} opens the service to the network, and there is no API key yet: set "
                "ANIMATIC_BOOTSTRAP_API_KEY_FILE to a file with one of at least 20 characters, or listen on 127.0.0.1",
                exit_code=ExitCode.CONFIG,
            )
        self.folder.take()
        port = self._take_port()
        url = f"http://{_reachable(self.options.host)}:{port}"
        self.place = Place(url, self.folder.take_key())
        env = self._environment(port)
        if self._is_stopping():
            return
        self._say("applying migrations")
        run_to_end(self._program("migrations", "api.admin", env, "migrate"))
        if self._is_stopping():
            return
        self._say("starting the API, the maintainer and the worker")
        self._serve("API", "api.serve", env, grace_s=25)
        self._serve("maintainer", "worker.maintain", env)
        for name, device in self._devices():
            self._serve(name, "worker", {**env, **device}, grace_s=_DRAIN_GRACE_S + 15)
        self._await_ready(entry.name, env)
        self.folder.write_url(url)

    def check(self) -> None:
        """Look after the children; to be called several times a second.

        Raises:
            StartupError: a part has ended that the service cannot go on without.
        """
        for engine in self._engines:
            if not engine.child.is_running:
                code = engine.child.process.returncode
                raise StartupError(
                    f"{engine.child.name} ended unexpectedly, {describe_exit(code)}; the end of {engine.log} says:\n"
                    f"{engine.child.log_tail()}",
                    exit_code=ExitCode.UNAVAILABLE,
                )
        for service in self._services:
            if news := service.check():
                self._say(news)

    def stop(self) -> None:
        """End everything in reverse order, and let go of the data folder."""
        # All at once: none needs another one's orderly end, but all need the engines.
        for service in self._services:
            service.child.ask_to_stop()
        for service in reversed(self._services):
            service.child.stop()
        for engine in reversed(self._engines):
            engine.stop()
        self._services, self._engines = [], []
        self.folder.release()

    def erase(self, *, keep_logs: bool = False) -> None:
        """Remove the data folder. Everything must have stopped."""
        Postgres(self.folder.path / "postgres").erase()
        for entry in [] if not self.folder.path.exists() else list(self.folder.path.iterdir()):
            if entry.is_dir() and not (keep_logs and entry == self.folder.logs):
                shutil.rmtree(entry, ignore_errors=True)
            elif not entry.is_dir():
                entry.unlink(missing_ok=True)
        if not keep_logs:
            self.folder.path.rmdir()

    def _environment(self, port: int) -> dict[str, str]:
        """The servers' settings: the user's own first, the embedded parts where they say nothing."""
        user = {name: value for name, value in os.environ.items() if value}
        # The key has been read; the file is the one place to look for it.
        user.pop("ANIMATIC_BOOTSTRAP_API_KEY", None)
        ours = {
            "ANIMATIC_OBJECT_STORE": str(self.folder.path / "objects"),
            "ANIMATIC_WANDB_DIR": str(self.folder.path / "wandb"),
            "ANIMATIC_PUBLIC_URL": self.place.url,
            "ANIMATIC_DRAIN_GRACE_S": f"{_DRAIN_GRACE_S:g}",
        }
        asked_for = {
            "ANIMATIC_API_HOST": self.options.host,
            "ANIMATIC_API_PORT": str(port),
            "ANIMATIC_BOOTSTRAP_API_KEY_FILE": str(self.folder.key_path),
            "ANIMATIC_MODEL": self.options.model,
            "ANIMATIC_MODELS": _models(self.options.model, user.get("ANIMATIC_MODELS")),
            **self.options.env,
        }
        if self.options.port == 0:
            # Nobody can have set the right URL for a port that was drawn just now.
            asked_for["ANIMATIC_PUBLIC_URL"] = self.place.url
        if not _is_set(user, "ANIMATIC_DATABASE_URL"):
            ours["ANIMATIC_DATABASE_URL"] = self._start_engine(Postgres, "postgres")
        if not _is_set(user, "ANIMATIC_REDIS_URL"):
            ours["ANIMATIC_REDIS_URL"] = self._start_engine(Redis, "redis")
        return {**{name: value for name, value in ours.items() if not _is_set(user, name)}, **user, **asked_for}

    def _start_engine(self, kind: type[Postgres] | type[Redis], name: str) -> str:
        self._say(f"starting {kind.__name__}")
        log = self.folder.log(name)
        engine = kind(self.folder.path / name, log=log)
        engine.start()
        self._engines.append(engine)
        return engine.url

    def _devices(self) -> list[tuple[str, dict[str, str]]]:
        count = 0 if os.environ.get("ANIMATIC_DEVICE") else count_gpus()
        if count == 0:
            return [("worker", {})]
        return [(f"worker-{index}", {"ANIMATIC_DEVICE": f"cuda:{index}"}) for index in range(count)]

    def _serve(self, name: str, module: str, env: Mapping[str, str], *, grace_s: float = 10) -> None:
        self._services.append(Service(self._program(name, module, env, grace_s=grace_s)))

    def _program(self, name: str, module: str, env: Mapping[str, str], *arguments: str, grace_s: float = 10) -> Program:
        return Program(name, module, arguments, env, self.folder.log(name.lower()), grace_s)

    def _await_ready(self, model: str, env: Mapping[str, str]) -> None:
        """Wait for the API to answer and for the workers to have loaded the model, which may take minutes."""
        from cli.client import Client
        from cli.failure import CommandError

        wanted = sum(service.program.module == "worker" for service in self._services)
        deadline = time.monotonic() + _READY_LIMIT_S
        seen_api = False
        with Client(self.place) as client:
            while time.monotonic() < deadline:
                if self._is_stopping():
                    return
                self.check()
                try:
                    if not seen_api:
                        client.get("/readyz")
                        seen_api = True
                        self._say(f"loading the model {model}")
                    if client.get(f"/v1/models/{model}")["workers"] >= wanted:
                        return
                except CommandError as error:
                    if error.exit_code == ExitCode.UNAUTHORIZED:
                        raise StartupError(
                            f"the API refuses the key in {env['ANIMATIC_BOOTSTRAP_API_KEY_FILE']}: it was revoked, or "
                            "the database has another one; put a valid key there",
                            exit_code=ExitCode.UNAUTHORIZED,
                        ) from None
                time.sleep(0.1)
        raise StartupError(
            f"the service was not ready after {_READY_LIMIT_S:g} s; see {self.folder.logs}",
            exit_code=ExitCode.UNAVAILABLE,
        )

    def _take_port(self) -> int:
        if self.options.port == 0:
            return free_port()
        deadline = time.monotonic() + _PORT_PATIENCE_S
        while problem := _port_problem(self.options.host, self.options.port):
            # The API of an `up` that was killed a moment ago may still be leaving.
            if time.monotonic() > deadline or not self.folder.last_url().endswith(f":{self.options.port}"):
                raise StartupError(
                    f"cannot listen on {self.options.host}:{self.options.port}: {problem}; choose another --port",
                    exit_code=ExitCode.UNAVAILABLE,
                )
            time.sleep(0.2)
        return self.options.port


def _is_set(env: Mapping[str, str], name: str) -> bool:
    return bool(env.get(name) or env.get(f"{name}_FILE"))


def _models(model: str, chosen: str | None) -> str:
    """The setting `models` with the one that has a worker here in it.

    Args:
        chosen: what the user's environment says.
    """
    models = (chosen or ",".join(BUILT_IN)).split(",")
    if chosen:
        return ",".join(models if model in models else [*models, model])
    # The first is the default of requests that name none.
    return ",".join([model, *(name for name in models if name != model)])


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reachable(host: str) -> str:
    """The address under which a client on this machine reaches a server that listens on `host`."""
    if host in ("0.0.0.0", ""):  # noqa: S104  # compared, not bound
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host


def _port_problem(host: str, port: int) -> str | None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        return str(error.strerror)
    return None


def _check_model(model: str) -> None:
    """Have the worker's own check look at the model's files and the device.

    Raises:
        StartupError: no worker could load it; one sentence.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-m", "worker.models", "check", model], capture_output=True, text=True, check=False
    )
    if done.returncode in FINAL_CODES:
        raise StartupError(done.stderr.strip().removeprefix("error: "), exit_code=ExitCode(done.returncode))
