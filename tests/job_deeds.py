"""What can be done to jobs, each deed as the service does it on Postgres and as the reference model does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from job_model import Model
from sqlalchemy import Engine, and_, text, update
from sqlalchemy.orm import Session
from support import PUBLIC_URL as URL

from shared.catalogue import find_entry, resolve
from shared.database import Sessions
from shared.errors import ConflictError, GenerationError, RequestError, StorageError
from shared.ids import new_id
from shared.jobs.accept import NewJob, find_by_idempotency_key, insert_job
from shared.jobs.claim import Claim, claim_job
from shared.jobs.end import end_job
from shared.jobs.lease import extend_lease
from shared.jobs.reap import expire_queued_job, reap_lost_job, reap_overdue_job
from shared.jobs.stop import cancel_job, request_deletion
from shared.objects import ObjectStore
from shared.params import GenerationOptions
from shared.quotas import Quotas
from shared.settings import Settings
from shared.states import JobStatus, Phase
from shared.tables import Input, Job
from worker.attempt import Attempt, Services
from worker.lease import AttemptStopped, Lease, StopReason
from worker.settle import settle_attempt

MODEL = "tiny"
#: far longer than the test: leases run out where it says so.
_LEASE_S = 3600
PARAMS = resolve(GenerationOptions(seed=1), find_entry(MODEL))
_FILE = {"key": "k", "size_bytes": 1, "sha256": "0" * 64, "media_type": "video/mp4"}
_RESULT = {
    "video": _FILE,
    "frames": [],
    "manifest": _FILE,
    "num_frames": 14,
    "width": 256,
    "height": 128,
    "duration_s": 2.0,
}

#: each job with all that hangs on it.
_JOBS = """
    SELECT jobs.*, run_after > clock_timestamp() AS waiting,
        (SELECT json_agg(json_build_array(event.status, event.attempt, event.reason) ORDER BY event.id)
         FROM job_events AS event WHERE event.job_id = jobs.id) AS events,
        (SELECT json_object_agg(attempts.attempt, outcome) FROM attempts WHERE attempts.job_id = jobs.id) AS attempts,
        (SELECT string_agg(event_type, ' ') FROM webhook_deliveries WHERE webhook_deliveries.job_id = jobs.id)
            AS delivery
    FROM jobs"""


@dataclass(frozen=True)
class Parts:
    """What the service's code works with."""

    engine: Engine
    sessions: Sessions
    settings: Settings
    store: ObjectStore
    tenants: list[UUID]


@dataclass(frozen=True)
class Deed:
    """One transaction: as the service does it, and as the model does it given what the service returned."""

    do: Callable[[], Any]
    expect: Callable[[Model, Any], Any]
    #: it passes over a row that somebody else has locked, and comes again later.
    skips_locked: bool = False


@dataclass
class Deeds:
    """Makes deeds, and looks at the tables."""

    parts: Parts
    #: all that were ever made; most are stale.
    claims: list[Claim] = field(default_factory=list)
    #: images that several jobs share.
    images: list[UUID] = field(default_factory=lambda: [new_id() for _ in range(3)])

    def accepting(
        self,
        who: int,
        priority: int,
        webhook: bool,
        image: int,
        idempotency: tuple[str, bytes] | None,
        queued_jobs_max: int,
    ) -> Deed:
        tenant = self.parts.tenants[who]
        # Some images serve many jobs, most only one; each belongs to one tenant.
        image_id = self.images[image % 3] if who == 0 and image < 6 else new_id()

        def do() -> str | UUID:
            try:
                with self.parts.sessions.begin() as session:
                    if idempotency is not None:
                        known = find_by_idempotency_key(session, tenant, *idempotency, ttl_s=3600)
                        if known is not None:
                            return known.id
                    new = NewJob(
                        tenant_id=tenant,
                        model=MODEL,
                        params=PARAMS,
                        input=_input(image_id, tenant),
                        priority=priority,
                        webhook_url="https://example.org/hook" if webhook else None,
                    )
                    return insert_job(session, new, Quotas(queued_jobs_max), idempotency=idempotency).id
            except ConflictError:
                return do()  # the winner's job, as the API answers
            except RequestError as error:
                return error.code

        def expect(model: Model, got: str | UUID) -> str | UUID:
            return model.accept(
                got if isinstance(got, UUID) else None,
                tenant=tenant,
                input_id=image_id,
                priority=priority,
                webhook=webhook,
                idempotency=idempotency,
                queued_jobs_max=queued_jobs_max,
            )

        return Deed(do, expect)

    def claiming(self, worker: UUID) -> Deed:
        def do() -> tuple[UUID, int] | None:
            claim = self.claim(worker)
            if claim is not None:
                self.claims.append(claim)
            return fence(claim)

        return Deed(do, lambda model, _: model.claim(worker))

    def claim(self, worker: UUID) -> Claim | None:
        with self.parts.sessions.begin() as session:
            return self.claim_in(session, worker)

    def claim_in(self, session: Session, worker: UUID) -> Claim | None:
        return claim_job(
            session, model=MODEL, worker_id=worker, lease_s=_LEASE_S, attempt_deadline_s=3600, public_url=URL
        )

    def canceling(self, job_id: UUID) -> Deed:
        def do() -> str | None:
            try:
                with self.parts.sessions.begin() as session:
                    return _status(cancel_job(session, _visible(job_id), public_url=URL))
            except ConflictError:
                return "conflict"

        return Deed(do, lambda model, _: model.cancel(job_id))

    def deleting(self, job_id: UUID) -> Deed:
        def do() -> bool:
            with self.parts.sessions.begin() as session:
                return request_deletion(session, _visible(job_id), public_url=URL)

        return Deed(do, lambda model, _: model.delete(job_id))

    def reaping(self, job_id: UUID) -> Deed:
        def do() -> str | None:
            with self.parts.sessions.begin() as session:
                max_losses = self.parts.settings.max_losses
                return _status(reap_lost_job(session, job_id, lease_s=_LEASE_S, max_losses=max_losses, public_url=URL))

        return Deed(do, lambda model, _: model.reap_lost(job_id), skips_locked=True)

    def reaping_overdue(self, job_id: UUID) -> Deed:
        def do() -> str | None:
            with self.parts.sessions.begin() as session:
                return _status(reap_overdue_job(session, job_id, public_url=URL))

        return Deed(do, lambda model, _: model.reap_overdue(job_id))

    def expiring(self, job_id: UUID) -> Deed:
        def do() -> str | None:
            with self.parts.sessions.begin() as session:
                return _status(expire_queued_job(session, job_id, queue_ttl_s=1e-6, public_url=URL))

        return Deed(do, lambda model, _: model.expire_queued(job_id))

    def beating(self, claim: Claim, step: int) -> Deed:
        def do() -> tuple[bool, bool] | None:
            with self.parts.sessions.begin() as session:
                flags = extend_lease(session, claim, phase=Phase.DENOISE, step=step, total_steps=25, lease_s=_LEASE_S)
            return None if flags is None else (flags.cancel, flags.release)

        return Deed(do, lambda model, _: model.beat(*self.fence_of(claim)))

    def finishing(self, claim: Claim) -> Deed:
        def do() -> bool:
            with self.parts.sessions.begin() as session:
                ended = end_job(
                    session, claim.holds(), JobStatus.SUCCEEDED, public_url=URL, reason="succeeded", result=_RESULT
                )
            return ended is not None

        return Deed(do, lambda model, _: model.finish(*self.fence_of(claim), "succeeded", "succeeded"))

    def settling(self, claim: Claim, error: Exception) -> Deed:
        """What the worker makes of an error: worker/settle.py decides."""

        def expect(model: Model, _: None) -> None:
            match error:
                case AttemptStopped(reason=StopReason.LOST):
                    pass  # a worker that knows it has lost a job writes nothing
                case AttemptStopped(reason=StopReason.CANCEL):
                    model.finish(*self.fence_of(claim), "canceled", "canceled")
                case AttemptStopped():
                    model.release(*self.fence_of(claim))
                case GenerationError():
                    model.finish(*self.fence_of(claim), "failed", error.code)
                case StorageError():
                    model.retry(*self.fence_of(claim), error.code)

        return Deed(lambda: settle_attempt(self.attempt_of(claim), error), expect)

    def fence_of(self, claim: Claim) -> tuple[UUID, int]:
        """Job and attempt; of one with another's token, an attempt that nobody holds."""
        return claim.job_id, claim.attempt if claim in self.claims else -1

    def attempt_of(self, claim: Claim) -> Attempt:
        parts = self.parts
        lease = Lease(parts.engine, claim, parts.settings)
        return Attempt(Services(parts.settings, parts.sessions, parts.store), claim, lease, Path())

    def set(self, job_id: UUID, **values: object) -> None:
        with self.parts.sessions.begin() as session:
            session.execute(
                update(Job).where(Job.id == job_id).values(**values).execution_options(synchronize_session=False)
            )

    def row_versions(self) -> list[Any]:
        """Which version of each row is the current one: an UPDATE that changes no value shows too.

        But for the one thing that a stale worker may write: that it has come back with a lost attempt.
        """
        tables = ("jobs", "job_events", "webhook_deliveries", "workers", "inputs", "idempotency_keys")
        union = " UNION ALL ".join(f"SELECT '{table}', ctid::text, xmin::text FROM {table}" for table in tables)
        attempts = """
            UNION ALL SELECT 'attempts', (to_jsonb(attempts) - 'stale_at')::text,
                CASE outcome WHEN 'lost' THEN 'lost' ELSE ctid::text || xmin::text END
            FROM attempts"""
        with self.parts.sessions() as session:
            return sorted(map(tuple, session.execute(text(union + attempts))))

    def read(self) -> dict[str, Any]:
        """The tables, in the words of `Model.snapshot`."""
        with self.parts.sessions() as session:
            jobs = {
                row.id: {
                    "status": row.status,
                    "attempt": row.attempt,
                    "losses": row.losses,
                    "failures": row.transient_failures,
                    "rank": row.rank,
                    "cancel": row.cancel_requested_at is not None,
                    "deleted": row.delete_requested_at is not None,
                    "erased": row.erased_at is not None,
                    "waiting": bool(row.waiting),
                    "input": row.input_id,
                    "events": [(status, attempt, reason) for status, attempt, reason in row.events or ()],
                    "attempts": {int(attempt): outcome for attempt, outcome in (row.attempts or {}).items()},
                    "delivery": row.delivery,
                }
                for row in session.execute(text(_JOBS))
            }
            return {
                "jobs": jobs,
                "inputs": dict(session.execute(text("SELECT id, deleted_at IS NOT NULL FROM inputs")).all()),
                "keys": {
                    (row.tenant_id, row.key): row.job_id
                    for row in session.execute(text("SELECT tenant_id, key, job_id FROM idempotency_keys"))
                },
                "workers": dict(session.execute(text("SELECT id, job_id FROM workers")).all()),
            }


def fence(claim: Claim | None) -> tuple[UUID, int] | None:
    return None if claim is None else (claim.job_id, claim.attempt)


def _status(job: Job | None) -> str | None:
    return None if job is None else str(job.status)


def _visible(job_id: UUID) -> Any:
    return and_(Job.id == job_id, Job.delete_requested_at.is_(None))


def _input(image_id: UUID, tenant: UUID) -> Input:
    return Input(
        id=image_id,
        tenant_id=tenant,
        object_key=f"inputs/{image_id.hex}.png",
        sha256="0" * 64,
        size_bytes=1,
        width=64,
        height=64,
        media_type="image/png",
    )
