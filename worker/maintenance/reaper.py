"""Reap: jobs whose worker has fallen silent, overrun its deadline, or that waited too long."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shared.database import Sessions, db_now, translated_errors
from shared.errors import DatabaseError
from shared.jobs.reap import (
    expire_queued_job,
    find_jobs,
    lease_expired,
    past_deadline,
    reap_lost_job,
    reap_overdue_job,
    too_long_in_queue,
)
from shared.settings import Settings
from shared.tables import Job

log = logging.getLogger(__name__)


class Reaper:
    """Remembers only since when it has been in touch with the database."""

    def __init__(self, sessions: Sessions, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._sessions = sessions
        self._settings = settings
        self._clock = clock
        self._in_touch_at: float | None = None
        self._patient_until = 0.0

    def reap(self) -> int:
        """One round; returns how many jobs were moved.

        Raises:
            DatabaseError: Postgres is not answering. After such a gap, and after a restart of Postgres, the reaper
                waits one whole lease, since workers could not extend theirs either: an outage must not count as a loss.
        """
        settings = self._settings
        with translated_errors(), self._sessions() as session:
            lost = find_jobs(session, lease_expired())
            overdue = find_jobs(session, past_deadline())
            stale = find_jobs(session, too_long_in_queue(settings.queue_ttl_s)) if settings.queue_ttl_s else []
            is_fresh = session.scalar(
                select(func.pg_postmaster_start_time() > db_now() - timedelta(seconds=settings.lease_s))
            )
        self._note_contact()
        url = settings.public_url
        moves: list[Callable[[Session], Job | None]] = []
        if not is_fresh and self._clock() >= self._patient_until:
            moves += [
                partial(
                    reap_lost_job,
                    job_id=job,
                    lease_s=settings.lease_s,
                    max_losses=settings.max_losses,
                    public_url=url,
                )
                for job in lost
            ]
        moves += [partial(reap_overdue_job, job_id=job, public_url=url) for job in overdue]
        moves += [
            partial(expire_queued_job, job_id=job, queue_ttl_s=settings.queue_ttl_s or 0, public_url=url)
            for job in stale
        ]
        return sum(map(self._move, moves))

    def _note_contact(self) -> None:
        now = self._clock()
        gap_s = 3 * self._settings.maintain_interval_s
        if self._in_touch_at is not None and now - self._in_touch_at > gap_s:
            log.warning(
                "out of touch with Postgres for %.0f s: waiting one lease before reaping", now - self._in_touch_at
            )
            self._patient_until = now + self._settings.lease_s
        self._in_touch_at = now

    def _move(self, move: Callable[[Session], Job | None]) -> bool:
        try:
            with translated_errors(), self._sessions.begin() as session:
                job = move(session)
        except DatabaseError:
            raise
        except Exception:  # one job that cannot be moved must not keep the others from it
            log.exception("cannot reap a job")
            return False
        if job is not None:
            log.info("reaped %s: now %s", job.id, job.status)
        return job is not None
