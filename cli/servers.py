"""Commands that become one of the server processes. The settings come from the environment: docs/settings.md."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import NoReturn

import click

from cli.failure import CommandError
from shared.exit_codes import ExitCode

#: what tells whether the extra is installed that a package needs.
_NEEDED = {"api": ("flask", "api"), "worker": ("torch", "worker")}


def run_module(module: str, *arguments: str) -> NoReturn:
    """Replace this process by `python -m MODULE …`.

    Raises:
        CommandError: what the module needs is not installed.
    """
    needed, extra = _NEEDED[module.partition(".")[0]]
    if module == "worker.maintain":
        needed, extra = "celery", "api"
    if find_spec(needed) is None:
        raise CommandError(f"this needs more packages: pip install 'animatic[{extra}]'", ExitCode.CONFIG)
    sys.stdout.flush()
    sys.stderr.flush()
    # -P: a folder called `api` in the current directory must not come before ours.
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])  # noqa: S606


_SETTINGS = "The settings are environment variables: docs/settings.md. `animatic up` runs all parts on one machine."


@click.command(epilog=_SETTINGS)
def api() -> None:
    """Run the API server (gunicorn)."""
    run_module("api.serve")


@click.command(epilog=_SETTINGS)
def worker() -> None:
    """Run a worker: one model on one device.

    \b
    ANIMATIC_MODEL=svd-xt ANIMATIC_DEVICE=cuda:1 animatic worker
    """
    run_module("worker")


@click.command(epilog=_SETTINGS)
def maintain() -> None:
    """Run a maintainer: it wakes workers for jobs that wait, puts lost jobs back into the queue, delivers webhooks, and
    removes what is no longer needed. Any number may run.
    """
    run_module("worker.maintain")


@click.command(epilog=_SETTINGS)
def migrate() -> None:
    """Make the database's tables, or bring them up to date. Run it before the other servers of a new version."""
    run_module("api.admin", "migrate")
