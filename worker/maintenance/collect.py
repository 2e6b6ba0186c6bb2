"""Collect: files that nobody will ask for any more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import and_, exists, select, update

from shared.database import Sessions, db_now, translated_errors
from shared.errors import NotFoundError
from shared.ids import parse_id
from shared.jobs.resource import job_prefix
from shared.objects import ObjectStore
from shared.objects.store import delete_prefix
from shared.settings import Settings
from shared.states import AttemptOutcome
from shared.tables import Attempt, Input, Job
from worker.maintenance.erase import erase_unused_input

_BATCH = 100
#: an upload without a row is a request under way, or one that failed; none takes so long.
_ORPHAN_AGE = timedelta(hours=24)
#: a stale worker may go on writing until its hard time limit.
_STALE_MARGIN_S = 120.0


def expire_results(sessions: Sessions, store: ObjectStore, settings: Settings) -> int:
    """Remove the files of jobs that ended longer ago than `retention_days`; returns of how many.

    The row says so first, so that no record ever promises a file that is gone.

    Raises:
        DatabaseError, StorageError: a part is not answering.
    """
    if settings.retention_days is None:
        return 0
    kept_until = db_now() - timedelta(days=settings.retention_days)
    with translated_errors(), sessions.begin() as session:
        due = select(Job.id).where(Job.result.is_not(None), Job.finished_at < kept_until).limit(_BATCH)
        session.execute(
            update(Job)
            .where(Job.id.in_(due.scalar_subquery()), Job.expired_at.is_(None))
            .values(expired_at=db_now())
            .execution_options(synchronize_session=False)
        )
        expired = session.execute(
            select(Job.id, Job.input_id).where(
                Job.result.is_not(None), Job.expired_at.is_not(None), Job.finished_at < kept_until
            )
        ).all()
    for job_id, input_id in expired:
        delete_prefix(store, job_prefix(job_id))
        with translated_errors(), sessions.begin() as session:
            session.execute(update(Job).where(Job.id == job_id).values(result=None, input_id=None))
        if input_id is not None:
            erase_unused_input(sessions, store, input_id)
    return len(expired)


def collect_orphans(
    sessions: Sessions, store: ObjectStore, settings: Settings, *, stale_after_s: float | None = None
) -> int:
    """Remove uploads of dead attempts, images that no job uses, and images without a row; returns how many of each.

    Args:
        stale_after_s: how long after its end an attempt's worker may still be writing; default: its hard time limit.

    Raises:
        DatabaseError, StorageError: a part is not answering.
    """
    if stale_after_s is None:
        stale_after_s = settings.attempt_deadline_s + _STALE_MARGIN_S
    return (
        _collect_dead_attempts(sessions, store, stale_after_s)
        + _collect_unused_inputs(sessions, store, settings)
        + _collect_rowless_inputs(sessions, store)
    )


def _collect_dead_attempts(sessions: Sessions, store: ObjectStore, stale_after_s: float) -> int:
    dead = and_(
        Attempt.collected_at.is_(None),
        Attempt.outcome != AttemptOutcome.SUCCEEDED,
        Attempt.ended_at < db_now() - timedelta(seconds=stale_after_s),
    )
    with translated_errors(), sessions() as session:
        attempts = session.execute(
            select(Attempt.job_id, Attempt.attempt).where(dead).order_by(Attempt.ended_at).limit(_BATCH)
        ).all()
    for job_id, attempt in attempts:
        delete_prefix(store, f"{job_prefix(job_id)}attempts/{attempt}/")
        with translated_errors(), sessions.begin() as session:
            session.execute(
                update(Attempt)
                .where(Attempt.job_id == job_id, Attempt.attempt == attempt)
                .values(collected_at=db_now())
            )
    return len(attempts)


def _collect_unused_inputs(sessions: Sessions, store: ObjectStore, settings: Settings) -> int:
    unused = and_(
        Input.deleted_at.is_(None),
        Input.created_at < db_now() - timedelta(days=settings.unused_input_days),
        ~exists().where(Job.input_id == Input.id),
    )
    with translated_errors(), sessions() as session:
        inputs = session.scalars(select(Input.id).where(unused).limit(_BATCH)).all()
    for input_id in inputs:
        erase_unused_input(sessions, store, input_id)
    return len(inputs)


def _collect_rowless_inputs(sessions: Sessions, store: ObjectStore) -> int:
    """Images whose request failed between upload and commit, and those whose row says that they are gone."""
    keys = {input_id: key for key in store.list_keys("inputs/") if (input_id := _input_id(key)) is not None}
    candidates = [input_id for input_id in keys if _made_at(input_id) < datetime.now(UTC) - _ORPHAN_AGE]
    count = 0
    for start in range(0, len(candidates), _BATCH):
        batch = candidates[start : start + _BATCH]
        with translated_errors(), sessions() as session:
            known = set(session.scalars(select(Input.id).where(Input.id.in_(batch), Input.deleted_at.is_(None))))
        for input_id in set(batch) - known:
            store.delete(keys[input_id])
            count += 1
    return count


def _input_id(key: str) -> UUID | None:
    try:
        return parse_id("inp", key.rpartition("/")[2].partition(".")[0])
    except NotFoundError:
        return None


def _made_at(input_id: UUID) -> datetime:
    """The time in a UUIDv7, by the clock of the API that drew it: good enough to tell a day."""
    return datetime.fromtimestamp((input_id.int >> 80) / 1000, UTC)
