"""Accepting and showing jobs, for the routes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from uuid import UUID

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from api.intake import ImageSource, load_image, store_image
from api.lookup import find
from api.schemas.jobs import JobRequest
from api.services import current_tenant, own_usage, quotas, services, transaction
from shared.catalogue import ModelEntry, off_distribution, resolve
from shared.errors import ConflictError, InvalidInputError, RequestError, StorageError
from shared.ids import show_id
from shared.jobs.accept import NewJob, find_by_idempotency_key, insert_job
from shared.jobs.claim import claimable
from shared.jobs.resource import JobResource, job_resource
from shared.params import GenerationOptions
from shared.quotas import check_storage, hold_usage
from shared.states import JobStatus
from shared.tables import Input, Job

#: an image in the object store, and whether this request put it there.
TakenImage = tuple[Input, bool]


def show_job(session: Session, job: Job) -> JobResource:
    """The job's resource, with its place in the queue."""
    position = None
    if job.status == JobStatus.QUEUED:
        ahead = or_(
            Job.priority > job.priority,
            and_(Job.priority == job.priority, or_(Job.rank < job.rank, and_(Job.rank == job.rank, Job.id < job.id))),
        )
        position = session.scalar(select(func.count()).where(Job.model == job.model, claimable(), ahead))
    return job_resource(job, services().settings.public_url, queue_position=position)


def accept_job(request: JobRequest, source: ImageSource, idempotency_key: str | None) -> tuple[JobResource, bool]:
    """Check everything, store the image, write the row, ring the doorbell.

    Returns:
        The job, and whether it was there already under the same idempotency key.

    Raises:
        InvalidInputError: a value or the image is not acceptable; nothing was written.
        NotFoundError: `input_id` names nothing.
        RateLimitedError: the tenant has too many queued jobs.
        QuotaExceededError: it has no room for the image, or none for a result.
        TransientError: Postgres or the object store is not answering.
    """
    app = services()
    entry = app.catalogue.get(request.model or next(iter(app.catalogue)).name)
    params = resolve(GenerationOptions(**request.model_dump(include=set(GenerationOptions.model_fields))), entry)
    if request.webhook_url is not None:
        app.outbound.check_url(request.webhook_url, field="webhook_url")
    idempotency = None
    if idempotency_key is not None:
        idempotency = (checked_key(idempotency_key), _fingerprint(request, source))
        with transaction() as session:
            known = find_by_idempotency_key(
                session, current_tenant(), *idempotency, ttl_s=app.settings.idempotency_ttl_s
            )
            if known is not None:
                return show_job(session, known), True

    taken = take_source(source)
    stored, _ = taken
    new = NewJob(
        tenant_id=current_tenant(),
        model=entry.name,
        params=params,
        input=stored,
        warnings=off_distribution(params, entry),
        labels=request.labels,
        image_name=request.image_name or source.file_name(),
        priority=request.priority,
        webhook_url=request.webhook_url,
    )
    try:
        with transaction() as session:
            job = insert_job(session, new, quotas(), idempotency=idempotency)
            resource = show_job(session, job)
    except ConflictError:
        # Another request under the same key was first: its commit is what we waited for.
        discard_images([taken])
        if idempotency is None:
            raise
        with transaction() as session:
            winner = find_by_idempotency_key(
                session, current_tenant(), *idempotency, ttl_s=app.settings.idempotency_ttl_s
            )
            if winner is None:
                raise
            return show_job(session, winner), True
    except RequestError:
        discard_images([taken])
        raise
    # Accepted, whether or not anybody hears this.
    _ring(entry, job.id)
    return resource, False


def take_input(source: ImageSource) -> Input:
    """Accept an image for later jobs.

    Raises:
        QuotaExceededError: the tenant has no room for it.
    """
    taken = take_source(source)
    stored, _ = taken
    try:
        with transaction() as session:
            check_storage(hold_usage(session, current_tenant(), quotas()), adding_bytes=stored.size_bytes)
            session.add(stored)
            session.flush()
            session.refresh(stored)
    except RequestError:
        discard_images([taken])
        raise
    return stored


def take_source(source: ImageSource, *, place: str = "") -> TakenImage:
    """Find the image, or store it; the row is the caller's to write, or the object to discard.

    Args:
        place: where in the request it stands, such as `images.3.`.

    Raises:
        InvalidInputError: it is not acceptable.
        NotFoundError: there is no such input.
        QuotaExceededError: the tenant has no room.
    """
    with transaction() as session:
        if source.input_id is not None:
            return find(session, Input, source.input_id, field=f"{place}input_id"), False
        # Asked before the work, too.
        check_storage(own_usage(session))
    return store_image(load_image(source, place=place)), True


def discard_images(taken: Iterable[TakenImage]) -> None:
    """Remove again what was stored for a request that is refused."""
    for stored, is_new in taken:
        if is_new:
            # What cannot be deleted now is an orphan that collection finds.
            with suppress(StorageError):
                services().store.delete(stored.object_key)


def _ring(entry: ModelEntry, job_id: UUID) -> None:
    services().doorbell.ring(entry.queue, show_id("job", job_id))


def checked_key(key: str) -> str:
    if not 1 <= len(key) <= 255 or not (key.isascii() and key.isprintable()):
        raise InvalidInputError(
            f"Idempotency-Key must be 1 to 255 printable ASCII characters, got {key[:80]!r}", field="Idempotency-Key"
        )
    return key


def _fingerprint(request: JobRequest, source: ImageSource) -> bytes:
    fields = request.model_dump(mode="json", exclude={"image_url", "input_id"}, exclude_unset=True)
    text = json.dumps({"fields": fields, "image": source.digest()}, sort_keys=True)
    return hashlib.sha256(text.encode()).digest()
