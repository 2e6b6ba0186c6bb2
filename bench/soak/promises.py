"""The promises about jobs that the database alone can show, as queries that find who breaks them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

_TERMINAL = "('succeeded', 'failed', 'canceled')"

#: each finds the ids of jobs for which it does not hold.
PROMISES = {
    "I2: one terminal event for a terminal job, none for another": f"""
        SELECT jobs.id FROM jobs
        LEFT JOIN job_events AS event ON event.job_id = jobs.id AND event.status IN {_TERMINAL}
        GROUP BY jobs.id HAVING count(event.id) <> (jobs.status IN {_TERMINAL})::int""",
    "the last event is the status": """
        SELECT id FROM jobs WHERE status IS DISTINCT FROM (
            SELECT event.status FROM job_events AS event WHERE event.job_id = jobs.id
            ORDER BY event.id DESC LIMIT 1)""",
    "one attempt and one event for each claim": """
        SELECT id FROM jobs
        WHERE attempt <> (SELECT count(*) FROM attempts WHERE attempts.job_id = jobs.id)
           OR attempt <> (SELECT coalesce(max(attempts.attempt), 0) FROM attempts WHERE attempts.job_id = jobs.id)
           OR attempt <> (SELECT count(*) FROM job_events AS event
                          WHERE event.job_id = jobs.id AND event.status = 'running')""",
    "the one open attempt is a running job's last": """
        SELECT id FROM jobs
        WHERE ARRAY(SELECT attempts.attempt FROM attempts WHERE attempts.job_id = jobs.id AND outcome IS NULL)
           <> CASE WHEN status = 'running' THEN ARRAY[attempt] ELSE '{}' END""",
    "I4: the one succeeded attempt is a succeeded job's last": """
        SELECT id FROM jobs
        WHERE ARRAY(SELECT attempts.attempt FROM attempts WHERE attempts.job_id = jobs.id AND outcome = 'succeeded')
           <> CASE WHEN status = 'succeeded' THEN ARRAY[attempt] ELSE '{}' END""",
    "losses count the lost attempts, but for one that may be another job's fault": """
        SELECT id FROM jobs
        WHERE losses + (SELECT count(*) FROM job_events AS event
                        WHERE event.job_id = jobs.id AND event.reason = 'collateral_loss')
           <> (SELECT count(*) FROM attempts WHERE attempts.job_id = jobs.id AND outcome = 'lost')
           OR 1 < (SELECT count(*) FROM job_events AS event
                   WHERE event.job_id = jobs.id AND event.reason = 'collateral_loss')""",
    "I5: one delivery row for a terminal job with a webhook, none for another": f"""
        SELECT id FROM jobs
        WHERE erased_at IS NULL
          AND (webhook_url IS NOT NULL AND status IN {_TERMINAL})::int
           <> (SELECT count(*) FROM webhook_deliveries AS delivery WHERE delivery.job_id = jobs.id)""",
}


def broken_promises(query: Callable[[str], Iterable[Any]]) -> dict[str, list[UUID]]:
    """The jobs for which a promise does not hold, by promise; empty when all is well.

    Args:
        query: runs one statement and returns its rows.
    """
    numbered = dict(enumerate(PROMISES))
    broken: dict[str, list[UUID]] = {}
    finders = (f"SELECT {number}, id FROM ({PROMISES[promise]}) AS found" for number, promise in numbered.items())
    for number, job_id in query(" UNION ALL ".join(finders)):
        broken.setdefault(numbered[number], []).append(job_id)
    return broken
