"""Sweep: ring for every claimable job that no message in the queue stands for."""

from __future__ import annotations

from sqlalchemy import func, select

from shared.catalogue import queue_name
from shared.database import Sessions, translated_errors
from shared.doorbell import Doorbell
from shared.jobs.claim import claimable
from shared.tables import Job

#: rings of one model in one round; the next round brings more.
_RINGS_MAX = 1_000


def ring_for_deficit(sessions: Sessions, doorbell: Doorbell) -> int:
    """Too many rings do no harm, too few are mended at the next round. Returns how many were sent.

    Raises:
        DatabaseError: Postgres is not answering.
        QueueError: Redis is not answering.
    """
    with translated_errors(), sessions() as session:
        waiting = session.execute(select(Job.model, func.count()).where(claimable()).group_by(Job.model)).all()
    rung = 0
    for model, count in waiting:
        queue = queue_name(model)
        for _ in range(min(count - doorbell.count_waiting(queue), _RINGS_MAX)):
            rung += doorbell.ring(queue, "sweep")
    return rung
