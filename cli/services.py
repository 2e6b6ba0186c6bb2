"""Our own server processes under `animatic up`: started again after a crash, unless they say why they cannot run."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.engines import Child, start_child
from shared.errors import StartupError
from shared.exit_codes import ExitCode

#: with these a process has said in one sentence what is wrong; starting it again would not help.
FINAL_CODES = frozenset(
    {
        ExitCode.USAGE,
        ExitCode.MODEL_INVALID,
        ExitCode.MODEL_UNAVAILABLE,
        ExitCode.DEVICE_UNAVAILABLE,
        ExitCode.CONFIG,
    }
)
_RESTARTS_MAX = 5
_PAUSE_MAX_S = 16.0
#: if we are killed, the engines go too, so there is nothing left to wind up in peace.
_ORPHAN_GRACE_S = 2.0
#: after so long the crashes before are forgotten.
_STEADY_S = 60.0


@dataclass(frozen=True)
class Program:
    """What to run: `python -m MODULE`."""

    name: str
    module: str
    arguments: tuple[str, ...]
    env: Mapping[str, str]
    log: Path
    grace_s: float

    def start(self) -> Child:
        return start_child(
            self.name,
            # -P: a folder called `api` in the current directory must not come before ours.
            [sys.executable, "-P", "-m", self.module, *self.arguments],
            log=self.log,
            env={**self.env, "PYTHONUNBUFFERED": "1"},
            grace_s=self.grace_s,
            orphan_grace_s=_ORPHAN_GRACE_S,
            cwd=Path.cwd(),
        )


class Service:
    """A program that should always run."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.child = program.start()
        self._started = time.monotonic()
        self._restarts = 0
        self._start_again_at: float | None = None

    def check(self) -> str | None:
        """Start it again if it has crashed, after a pause that doubles.

        Returns:
            What has happened just now, for people.

        Raises:
            StartupError: it said that it cannot run, or it crashes again and again.
        """
        now = time.monotonic()
        if self._start_again_at is not None:
            if now >= self._start_again_at:
                self.child = self.program.start()
                self._started, self._start_again_at = now, None
            return None
        if self.child.is_running:
            return None
        # What it started itself must not go on beside its successor.
        code = self.child.kill()
        if code in FINAL_CODES:
            raise StartupError(last_sentence(self.child), exit_code=code)
        if now - self._started > _STEADY_S:
            self._restarts = 0
        if self._restarts == _RESTARTS_MAX:
            raise StartupError(
                f"{self.program.name} ended {_RESTARTS_MAX + 1} times in a row, at last {describe_exit(code)}: "
                f"{last_sentence(self.child)} (all of it: {self.program.log})",
                exit_code=ExitCode.UNAVAILABLE,
            )
        pause_s = min(2.0**self._restarts, _PAUSE_MAX_S)
        self._restarts += 1
        self._start_again_at = now + pause_s
        return f"{self.program.name} ended {describe_exit(code)}; starting it again in {pause_s:g} s"


def run_to_end(program: Program) -> None:
    """Run a program that ends by itself.

    Raises:
        StartupError: it failed; with its sentence and, where it means something, its exit code.
    """
    child = program.start()
    try:
        code = child.process.wait()
    finally:
        child.kill()
    if code != 0:
        raise StartupError(
            f"{program.name} failed: {last_sentence(child)} (all of it: {program.log})",
            exit_code=code if code in FINAL_CODES else ExitCode.UNAVAILABLE,
        )


def last_sentence(child: Child) -> str:
    """What a process said last: its `error: …` line if there is one."""
    lines = [line.strip() for line in child.log_tail(40).splitlines() if line.strip()]
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return said[-1] if said else (lines[-1] if lines else "it said nothing")


def describe_exit(code: int) -> str:
    return f"with code {code}" if code >= 0 else f"by signal {-code}"
