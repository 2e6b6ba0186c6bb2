"""Children that die with their parent, however it dies.

Every child leads its own session, so that a Ctrl-C in the terminal reaches only the parent, which then stops
its children in order. If the parent is killed, PR_SET_PDEATHSIG (Linux) and the watcher (`cli.engines.watch`,
everywhere) stop them instead.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cli.engines.account import Account, PopenOptions
from shared.errors import StartupError
from shared.exit_codes import ExitCode

_PR_SET_PDEATHSIG = 1
_TAIL_LINES = 12


@dataclass(frozen=True)
class Child:
    """A process that `start_child` started."""

    name: str
    process: subprocess.Popen[bytes]
    #: where its standard output and error go.
    log: Path
    #: asks it to end; PR_SET_PDEATHSIG sends the same.
    stop_signal: signal.Signals
    #: seconds from the stop signal to SIGKILL.
    grace_s: float

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def ask_to_stop(self) -> None:
        """Send the stop signal, and do not wait."""
        if self.is_running:
            self.process.send_signal(self.stop_signal)

    def stop(self) -> int:
        """End it and all of its process group; SIGKILL after the grace.

        Returns:
            Its return code, negative for a signal.
        """
        self.ask_to_stop()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(self.grace_s)
        return self.kill()

    def kill(self) -> int:
        """End it and all of its process group at once with SIGKILL."""
        # Also when it has ended by itself: what it left behind is in the same group.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        code = self.process.wait()
        _watcher.forget(self.pid)
        return code

    def log_tail(self, lines: int = _TAIL_LINES) -> str:
        """The last lines of its log."""
        return read_tail(self.log, lines)


def start_child(
    name: str,
    argv: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    account: Account | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
    grace_s: float = 10,
    orphan_grace_s: float | None = None,
    cwd: Path | None = None,
) -> Child:
    """Start a process that ends when this one does.

    Must be called in the main thread: PR_SET_PDEATHSIG fires when the *thread* that forked ends.

    Args:
        log: appended to.
        account: run as this user instead of root.
        grace_s: how long it may take to stop when it is asked to.
        orphan_grace_s: the same when we have died without asking; default: the same.
        env: its whole environment; default is ours.

    Raises:
        StartupError: the program cannot be run.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("start_child must be called in the main thread: PR_SET_PDEATHSIG is per thread")
    log.parent.mkdir(parents=True, exist_ok=True)
    options: PopenOptions = {} if account is None else account.popen_options
    try:
        _watcher.start()
        with open(log, "ab", opener=_open_private) as output:
            process = subprocess.Popen(
                [str(part) for part in argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd or "/",
                start_new_session=True,
                # Popen changes the user first and calls this after; a change of user would clear the setting.
                preexec_fn=_die_with_parent(stop_signal),
                **options,
            )
    except (OSError, subprocess.SubprocessError) as error:
        _watcher.stop_if_idle()
        raise StartupError(f"{name} cannot be started: {error}", exit_code=ExitCode.UNAVAILABLE) from error
    _watcher.remember(process.pid, stop_signal, grace_s if orphan_grace_s is None else orphan_grace_s)
    return Child(name, process, log, stop_signal, grace_s)


def free_port() -> int:
    """A TCP port on the loopback interface that is free at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def await_nobody_in(folder: Path, programs: Collection[str], *, limit_s: float) -> bool:
    """Wait until none of these programs works in this folder: an earlier one may still be shutting down.

    Returns:
        Whether that is certain; it cannot be seen except on Linux.

    Raises:
        StartupError: somebody stays.
    """
    if sys.platform != "linux":
        return False
    deadline = time.monotonic() + limit_s
    while pids := _processes_in(folder, programs):
        if time.monotonic() > deadline:
            raise StartupError(
                f"another {' or '.join(programs)} (pid {pids[0]}) is at work in {folder}; stop it first",
                exit_code=ExitCode.UNAVAILABLE,
            )
        time.sleep(0.05)
    return True


def read_tail(log: Path, lines: int = _TAIL_LINES) -> str:
    """The last lines of a file, or nothing."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16_384))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def _processes_in(folder: Path, programs: Collection[str]) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # A shell may stand there too; and an executable may have been replaced: `postgres (deleted)`.
                program = Path(os.readlink(entry / "exe")).name.partition(" ")[0]
                if program in programs and os.readlink(entry / "cwd") == str(folder):
                    found.append(int(entry.name))
    return found


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _die_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    # Loaded here and not in the child, where only the one call is safe between fork and exec.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def set_death_signal() -> None:
        if prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0 or os.getppid() != parent:
            # The parent died before the setting was made: nobody would send the signal.
            os._exit(127)

    return set_death_signal


class _Watcher:
    """The process that ends our children after us; it runs while there are any."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pids: set[int] = set()

    def start(self) -> None:
        if self._process is None or self._process.poll() is not None:
            script = Path(__file__).with_name("watch.py")
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )

    def remember(self, pid: int, number: signal.Signals, grace_s: float) -> None:
        self._pids.add(pid)
        self._write(f"+ {pid} {int(number)} {grace_s}\n")

    def forget(self, pid: int) -> None:
        if pid in self._pids:
            self._pids.remove(pid)
            self._write(f"- {pid}\n")
            self.stop_if_idle()

    def stop_if_idle(self) -> None:
        if self._process is None or self._pids:
            return
        # Closes the pipe; the watcher has no children left to end.
        self._process.communicate()
        self._process = None

    def _write(self, line: str) -> None:
        # Somebody may have killed the watcher; the death signal still stands.
        if self._process is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()


_watcher = _Watcher()
