"""A worker of ours whose jobs do nothing: `python -m bench.service.noop_tasks`.

Celery application, claim, lease and the closing transaction are the service's own; there is no image, no pipeline, no
video and no upload.
"""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import Any

from celery import shared_task
from celery.signals import worker_process_init
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from shared.catalogue import queue_name
from shared.database import make_engine, make_sessions
from shared.doorbell import TASK_NAME
from shared.environment import load_settings
from shared.ids import new_id
from shared.jobs.claim import claim_job
from shared.jobs.end import end_job
from shared.objects import open_store
from shared.states import JobStatus, Phase
from worker.app import make_app
from worker.attempt import Attempt, Services
from worker.lease import Lease
from worker.log import configure_logging

WORKER_ID = new_id()


class _Process:
    services: Services
    engine: Engine


@worker_process_init.connect
def _start(**_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    configure_logging()
    settings = load_settings()
    _Process.engine = make_engine(settings, application="animatic-worker")
    _Process.services = Services(settings, make_sessions(_Process.engine), open_store(settings))
    logging.getLogger("worker").info("ready: nothing to load")


@shared_task(name=TASK_NAME)
def run_noop(job: str | None = None) -> None:
    """As `worker.generate`, without the work."""
    services = _Process.services
    services.store.check()
    with services.sessions.begin() as session:
        claim = claim_job(
            session,
            model=services.settings.model,
            worker_id=WORKER_ID,
            lease_s=services.settings.lease_s,
            attempt_deadline_s=services.settings.attempt_deadline_s,
            public_url=services.settings.public_url,
        )
    if claim is None:
        return
    with Lease(_Process.engine, claim, services.settings) as lease:
        attempt = Attempt(services, claim, lease, Path())
        lease.progress(Phase.FINISH)

        def write(session: Session) -> None:
            ended = end_job(
                session,
                claim.holds(),
                JobStatus.SUCCEEDED,
                public_url=services.settings.public_url,
                reason="succeeded",
                result={},
            )
            assert ended is not None

        attempt.persist(write)


def main() -> None:
    configure_logging()
    settings = load_settings()
    app = make_app(settings)
    app.conf.include = ["bench.service.noop_tasks"]
    app.Worker(
        queues=queue_name(settings.model), without_gossip=True, without_mingle=True, loglevel="WARNING", quiet=True
    ).start()


if __name__ == "__main__":
    main()
