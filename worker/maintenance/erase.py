"""Erase: the content of deleted jobs, and rows that have served their time."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import and_, delete, select, update

from shared.database import Sessions, db_now, translated_errors
from shared.jobs.resource import job_prefix
from shared.objects import ObjectStore
from shared.objects.store import delete_prefix
from shared.settings import Settings
from shared.states import TERMINAL_STATUSES, DeliveryStatus
from shared.tables import Attempt as AttemptRow
from shared.tables import IdempotencyKey, Input, Job, WebhookDelivery, Worker

_BATCH = 100
_WORKER_GONE = timedelta(minutes=10)


def erase_deleted_jobs(sessions: Sessions, store: ObjectStore) -> int:
    """Objects first, then the row's content: what fails in between is found again. Returns how many were erased.

    Raises:
        DatabaseError, StorageError: a part is not answering.
    """
    erasable = and_(
        Job.delete_requested_at.is_not(None), Job.erased_at.is_(None), Job.status.in_(sorted(TERMINAL_STATUSES))
    )
    with translated_errors(), sessions() as session:
        jobs = session.execute(
            select(Job.id, Job.input_id).where(erasable).order_by(Job.delete_requested_at).limit(_BATCH)
        ).all()
    for job_id, input_id in jobs:
        delete_prefix(store, job_prefix(job_id))
        with translated_errors(), sessions.begin() as session:
            session.execute(
                update(Job)
                .where(Job.id == job_id)
                .values(
                    erased_at=db_now(),
                    params={},
                    labels={},
                    image_name=None,
                    grid_axes=None,
                    warnings=[],
                    webhook_url=None,
                    result=None,
                    measures=None,
                    input_id=None,
                    error_message=None,
                )
                .execution_options(synchronize_session=False)
            )
            session.execute(update(AttemptRow).where(AttemptRow.job_id == job_id).values(error_message=None))
            session.execute(delete(IdempotencyKey).where(IdempotencyKey.job_id == job_id))
            session.execute(
                update(WebhookDelivery)
                .where(WebhookDelivery.job_id == job_id, WebhookDelivery.status == DeliveryStatus.PENDING)
                .values(status=DeliveryStatus.DISABLED, last_error="the job was deleted", ended_at=db_now())
            )
            session.execute(
                update(WebhookDelivery).where(WebhookDelivery.job_id == job_id).values(body=b"", url="", host="")
            )
        if input_id is not None:
            erase_unused_input(sessions, store, input_id)
    return len(jobs)


def erase_unused_input(sessions: Sessions, store: ObjectStore, input_id: UUID) -> None:
    """The image goes with the last job that used it."""
    with translated_errors(), sessions.begin() as session:
        # Acceptance of a job locks the row too, so whoever comes second sees what the first has done.
        stored = session.scalars(select(Input).where(Input.id == input_id).with_for_update()).one()
        if session.scalars(select(Job.id).where(Job.input_id == input_id).limit(1)).first() is not None:
            return
        stored.deleted_at = session.scalar(select(db_now()))
    store.delete(stored.object_key)


def forget_old_rows(sessions: Sessions, settings: Settings) -> None:
    """Idempotency keys past their time, and workers that left without a word."""
    with translated_errors(), sessions.begin() as session:
        session.execute(
            delete(IdempotencyKey).where(
                IdempotencyKey.created_at < db_now() - timedelta(seconds=settings.idempotency_ttl_s)
            )
        )
        session.execute(delete(Worker).where(Worker.last_seen_at < db_now() - _WORKER_GONE))
