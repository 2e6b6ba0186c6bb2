"""Running `worker.tracking.log_runs` with a limit of time, and reading what it reports."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

from shared.settings import Settings
from worker.tracking.order import Order, Reported

_LOOK_S = 0.2
#: beside those for wandb and for proxies; HOME is where `wandb login` has left a key.
_KEPT = {"PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "SSL_CERT_FILE", "SSL_CERT_DIR"}


class TrackingError(Exception):
    """The runs could not be logged, or not all of them."""

    def __init__(self, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        #: trying again would not help.
        self.permanent = permanent


def check_installed() -> None:
    """
    Raises:
        TrackingError: wandb is not there.
    """
    if importlib.util.find_spec("wandb") is None:
        raise TrackingError("wandb is not installed: install Animatic with its extra `wandb`", permanent=True)


def run_child(order: Order, settings: Settings, stopping: threading.Event) -> Generator[Reported]:
    """Give each run as it is complete.

    Args:
        order: what to log; its folder of videos is used for files of the child's, too.
        stopping: ends it early.

    Raises:
        TrackingError: it said so, or ended without a word, or its time was up.
    """
    limit = time.monotonic() + settings.wandb_timeout_s
    file, said = order.videos / "order.json", order.videos / "child.log"
    file.write_text(order.model_dump_json(), encoding="utf-8")
    with said.open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "worker.tracking.log_runs", str(file)],
            env=_environment(settings, order.videos),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # wandb's own server is in the group, and ends with it
        )
    lines = 0
    try:
        while True:
            ended = child.poll() is not None
            reported = (
                order.report.read_text(encoding="utf-8").splitlines(keepends=True) if order.report.exists() else []
            )
            for line in reported[lines:]:
                if line.endswith("\n"):
                    lines += 1
                    yield _read(line)
            if ended:
                break
            if stopping.is_set():
                raise TrackingError("the maintainer stops", permanent=False)
            if time.monotonic() > limit:
                raise TrackingError(f"it took longer than {settings.wandb_timeout_s:g} s", permanent=False)
            time.sleep(_LOOK_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if child.returncode != 0:
        last = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise TrackingError(f"it ended with {child.returncode}: {last[0]}", permanent=False)


def _read(line: str) -> Reported:
    reported = Reported.model_validate_json(line)
    if reported.run_id is None:
        raise TrackingError(reported.error or "no reason given", permanent=reported.permanent)
    return reported


def _environment(settings: Settings, scratch: Path) -> dict[str, str]:
    """wandb's own variables, ours for it, and what any program needs; none of the service's, which hold its secrets."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith("WANDB_") or name.lower().endswith("_proxy")
    }
    ours = {
        "WANDB_API_KEY": settings.wandb_api_key.get_secret_value() if settings.wandb_api_key else None,
        "WANDB_MODE": settings.wandb_mode,
        "WANDB_SILENT": "true",
        # It would send reports of its own errors, and counts, home.
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_CACHE_DIR": str(scratch / "cache"),
        "WANDB_DATA_DIR": str(scratch / "data"),
    }
    return {**kept, **{name: value for name, value in ours.items() if value is not None}}
