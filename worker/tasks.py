"""What the pool's child imports: the one task, and the hooks that load and close the pipeline.

The pool swallows an exception from the initializer and would then run tasks without a pipeline, and `sys.exit` there
makes it respawn for ever. So a child whose load fails leaves its sentence and exit code in a file, and stops the
parent.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path
from typing import Any
from uuid import UUID

from celery import shared_task
from celery.exceptions import Reject
from celery.signals import worker_process_init, worker_process_shutdown

from shared.catalogue import find_entry
from shared.database import make_engine, make_sessions
from shared.doorbell import TASK_NAME
from shared.environment import load_settings
from shared.errors import DeviceLostError, StartupError, TransientError
from shared.exit_codes import ExitCode
from shared.objects import open_store
from shared.scratch import remove_left_folders
from worker.attempt import Services
from worker.generate import Generator
from worker.load import load
from worker.log import configure_logging
from worker.presence import Presence

#: how the parent tells the child who they are, and the child tells the parent why it cannot be.
WORKER_ID_VARIABLE = "_ANIMATIC_WORKER_ID"
FAILURE_FILE_VARIABLE = "_ANIMATIC_FAILURE_FILE"

log = logging.getLogger(__name__)


class _Process:
    """This child's own state; set by the initializer."""

    generator: Generator | None = None
    presence: Presence | None = None


@worker_process_init.connect  # type: ignore[untyped-decorator]  # celery has no types
def _start(**_: Any) -> None:
    # A SIGTERM to the whole group is the parent's to handle: it drains, and the job in this process goes on.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    configure_logging()
    try:
        _load()
    except StartupError as error:
        _stop_parent(str(error), error.exit_code)
    except Exception as error:
        log.exception("the model cannot be loaded")
        _stop_parent(f"the model cannot be loaded: {type(error).__name__}: {error}", ExitCode.MODEL_INVALID)


def _load() -> None:
    settings = load_settings()
    remove_left_folders()  # such as those of the child before this one
    entry = find_entry(settings.model)
    pipeline = load(settings, entry)
    engine = make_engine(settings, application="animatic-worker")
    sessions = make_sessions(engine)
    worker_id = UUID(os.environ[WORKER_ID_VARIABLE])
    _Process.generator = Generator(
        services=Services(settings=settings, sessions=sessions, store=open_store(settings)),
        engine=engine,
        pipeline=pipeline,
        model=entry.name,
        worker_id=worker_id,
    )
    _Process.presence = Presence(
        sessions,
        worker_id,
        model=entry.name,
        info=pipeline.info,
        busy=_Process.generator.busy,
        every_s=settings.heartbeat_s,
    )
    _Process.presence.start()
    log.info("ready: %s on %s", entry.name, pipeline.info.device)


def _stop_parent(message: str, exit_code: int) -> None:
    Path(os.environ[FAILURE_FILE_VARIABLE]).write_text(
        json.dumps({"message": message, "exit_code": int(exit_code)}), encoding="utf-8"
    )
    os.kill(os.getppid(), signal.SIGTERM)


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _close(**_: Any) -> None:
    if _Process.generator is not None:
        # The process ends when this returns, and its threads with it.
        _Process.generator.finisher.join()
    if _Process.presence is not None:
        _Process.presence.close()


@shared_task(name=TASK_NAME)  # type: ignore[untyped-decorator]  # celery has no types
def generate(job: str | None = None) -> None:
    """Run the best claimable job, which need not be the one that the message names.

    The task ends, and its message is acknowledged, when the device is free again; the result's end is the lease's to
    see to.
    """
    if _Process.generator is None:
        raise Reject("this process has no pipeline", requeue=True)
    try:
        _Process.generator.run_next()
    except DeviceLostError as error:
        log.critical("%s; ending this process, another one will load the model", error)
        os._exit(1)  # the parent sees it die, rings again and starts the other one
    except TransientError as error:
        log.warning("nothing claimed: %s", error)  # the sweep rings again
