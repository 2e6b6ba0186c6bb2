"""`python -m worker.maintain`: the maintainer's loop. Any number may run; none of them holds anything."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from shared.database import make_engine, make_sessions
from shared.doorbell import Doorbell
from shared.environment import load_settings
from shared.errors import StartupError, TransientError
from shared.objects import open_store
from shared.outbound import OutboundGuard
from shared.scratch import remove_left_folders
from shared.settings import Settings
from worker.log import configure_logging
from worker.maintenance.collect import collect_orphans, expire_results
from worker.maintenance.deliver import Deliverer
from worker.maintenance.erase import erase_deleted_jobs, forget_old_rows
from worker.maintenance.reaper import Reaper
from worker.maintenance.sweep import ring_for_deficit
from worker.maintenance.track import track_experiments

#: webhooks should not wait for the next round of everything else.
_DELIVER_EVERY_S = 0.25
_COLLECT_EVERY_S = 60.0

log = logging.getLogger(__name__)


def maintain(settings: Settings, stopping: threading.Event) -> None:
    """Run rounds until told to stop."""
    remove_left_folders()
    engine = make_engine(settings, pool_size=20, application="animatic-maintainer")
    sessions = make_sessions(engine)
    store = open_store(settings)
    doorbell = Doorbell(settings)
    reaper = Reaper(sessions, settings)
    deliverer = Deliverer(
        sessions, settings, OutboundGuard(allow=settings.outbound_allow, ports=settings.outbound_ports)
    )
    rounds: list[tuple[str, float, Callable[[], object]]] = [
        ("reap", settings.maintain_interval_s, reaper.reap),
        ("sweep", settings.maintain_interval_s, lambda: ring_for_deficit(sessions, doorbell)),
        ("erase", settings.maintain_interval_s, lambda: erase_deleted_jobs(sessions, store)),
        ("forget", 60.0, lambda: forget_old_rows(sessions, settings)),
        ("expire", _COLLECT_EVERY_S, lambda: expire_results(sessions, store, settings)),
        ("collect", _COLLECT_EVERY_S, lambda: collect_orphans(sessions, store, settings)),
        ("track", settings.maintain_interval_s, lambda: track_experiments(sessions, store, settings, stopping)),
        ("deliver", min(_DELIVER_EVERY_S, settings.maintain_interval_s), deliverer.deliver_due),
    ]
    # Each kind in a thread of its own: a store or a Redis that hangs must not keep jobs from being reaped.
    threads = [
        threading.Thread(target=_repeat, args=(name, every_s, work, stopping), name=name)
        for name, every_s, work in rounds
    ]
    log.info("maintaining")
    for thread in threads:
        thread.start()
    stopping.wait()
    deliverer.close()
    for thread in threads:
        thread.join(timeout=settings.webhook_timeout_s)
    doorbell.close()
    engine.dispose()


def _repeat(name: str, every_s: float, work: Callable[[], object], stopping: threading.Event) -> None:
    while not stopping.is_set():
        try:
            work()
        except TransientError as error:
            log.warning("%s: %s", name, error)
        except Exception:  # the outermost boundary of a round: the next one shall come
            log.exception("%s failed", name)
        stopping.wait(every_s)


def main() -> None:
    configure_logging()
    stopping = threading.Event()

    def stop(*_: Any) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        maintain(load_settings(), stopping)
    except StartupError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
