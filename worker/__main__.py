"""`python -m worker`: one worker process on one device.

This process checks what can be checked without torch, then keeps Celery's event loop; a child that it spawns holds the
pipeline. It ends with an exit code that says why (shared/exit_codes.py), and never respawns a child that cannot load.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
import warnings
from contextlib import suppress
from typing import Any
from uuid import UUID

from celery.exceptions import SecurityWarning
from celery.signals import worker_shutting_down

from shared.catalogue import find_entry
from shared.database import Sessions, make_engine, make_sessions
from shared.environment import load_settings
from shared.errors import DatabaseError, StartupError
from shared.ids import new_id
from shared.processes import end_in_order_on_sigterm
from shared.scratch import scratch_folder
from shared.settings import Settings
from worker.app import make_app
from worker.log import configure_logging
from worker.preflight import check_model
from worker.presence import begin_drain, leave
from worker.tasks import FAILURE_FILE_VARIABLE, WORKER_ID_VARIABLE

log = logging.getLogger(__name__)


def run_worker(settings: Settings) -> int:
    """Serve jobs until SIGTERM or SIGINT; returns the exit code.

    Raises:
        StartupError: the model cannot be loaded here.
    """
    entry = find_entry(settings.model)
    check_model(settings, entry)
    worker_id = new_id()
    sessions = make_sessions(make_engine(settings, pool_size=1, application="animatic-worker-parent"))
    with scratch_folder("worker") as folder:
        failure_file = folder / "failure.json"
        os.environ[WORKER_ID_VARIABLE] = str(worker_id)
        os.environ[FAILURE_FILE_VARIABLE] = str(failure_file)

        # In a thread: the signal's handler must not wait for Postgres, which may not be answering.
        drainer = threading.Thread(target=_drain, args=(sessions, worker_id, settings.drain_grace_s), daemon=True)

        @worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]  # celery has no types
        def drain(**_: Any) -> None:
            if drainer.ident is None:  # a second SIGTERM changes nothing
                drainer.start()

        celery_worker = make_app(settings).Worker(
            hostname=f"{entry.name}-{worker_id.hex[-8:]}@{socket.gethostname()}",
            queues=entry.queue,
            without_gossip=True,
            without_mingle=True,
            loglevel="WARNING",
            quiet=True,
        )
        celery_worker.start()
        with suppress(DatabaseError):
            leave(sessions, worker_id)
        if failure_file.exists():
            failure = json.loads(failure_file.read_text(encoding="utf-8"))
            raise StartupError(failure["message"], exit_code=failure["exit_code"])
        return celery_worker.exitcode or 0


def _drain(sessions: Sessions, worker_id: UUID, grace_s: float) -> None:
    log.info("draining: no more jobs, %g s for the one at hand", grace_s)
    end = time.monotonic() + grace_s
    has_warned = False
    while True:
        try:
            begin_drain(sessions, worker_id, max(0.0, end - time.monotonic()))
            return
        except DatabaseError as error:
            if not has_warned:
                log.warning("cannot set the drain flag yet, so the job at hand runs on: %s", error)
            has_warned = True
            time.sleep(1)


def main() -> None:
    configure_logging()
    end_in_order_on_sigterm()
    # Celery warns root of pickled messages; only JSON is accepted here.
    warnings.simplefilter("ignore", SecurityWarning)
    try:
        sys.exit(run_worker(load_settings()))
    except StartupError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
