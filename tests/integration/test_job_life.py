"""The life of a job on real Postgres: claims, leases, ends and ways back, one transaction at a time."""

from __future__ import annotations

import threading
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from support import PUBLIC_URL as URL
from support import WORKER_ID as WORKER

from api.auth import ensure_tenant
from shared.database import Sessions, db_now
from shared.errors import ConflictError, RateLimitedError
from shared.ids import new_id
from shared.jobs.claim import Claim
from shared.jobs.end import end_job
from shared.jobs.lease import extend_lease
from shared.jobs.reap import expire_queued_job, reap_lost_job, reap_overdue_job
from shared.jobs.requeue import requeue_job, retry_pause_s
from shared.jobs.stop import cancel_job, request_deletion
from shared.states import AttemptOutcome, DeliveryStatus, JobStatus, Phase
from shared.tables import Attempt, Job, JobEvent, WebhookDelivery, Worker


def read(sessions: Sessions, job_id: UUID) -> Job:
    with sessions() as session:
        return session.get_one(Job, job_id)


def expire_lease(sessions: Sessions, job_id: UUID) -> None:
    with sessions.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_expires_at=db_now() - timedelta(seconds=1)))


def events(sessions: Sessions, job_id: UUID) -> list[tuple[str, int, str]]:
    with sessions() as session:
        rows = session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.id))
        return [(row.status, row.attempt, row.reason) for row in rows]


def succeed(session: Session, claim: Claim) -> Job | None:
    return end_job(session, claim.holds(), JobStatus.SUCCEEDED, public_url=URL, reason="succeeded", result=RESULT)


FILE = {"key": "k", "size_bytes": 1, "sha256": "0" * 64, "media_type": "video/mp4"}
RESULT = {
    "video": FILE,
    "frames": [],
    "manifest": FILE,
    "num_frames": 14,
    "width": 256,
    "height": 128,
    "duration_s": 2.0,
}


def test_a_claim_starts_an_attempt_with_a_fresh_lease(sessions, submit, claim) -> None:
    job_id = submit()
    taken = claim()
    assert (taken.job_id, taken.attempt) == (job_id, 1)
    job = read(sessions, job_id)
    assert (job.status, job.attempt, job.lease_token) == (JobStatus.RUNNING, 1, taken.lease_token)
    assert claim() is None
    assert events(sessions, job_id) == [("queued", 0, "accepted"), ("running", 1, "claimed")]


def test_many_workers_at_once_claim_each_job_just_once(sessions, submit, claim) -> None:
    jobs = {submit() for _ in range(20)}
    taken: list[UUID] = []
    lock = threading.Lock()

    def work() -> None:
        while (found := claim(new_id())) is not None:
            with lock:
                taken.append(found.job_id)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 20
    assert set(taken) == jobs


def test_higher_priority_goes_first_and_equals_go_in_order(submit, claim) -> None:
    first, second, urgent = submit(), submit(), submit(priority=5)
    assert [claim().job_id for _ in range(3)] == [urgent, first, second]


def test_a_tenant_with_many_jobs_does_not_starve_another(sessions, submit, claim) -> None:
    with sessions.begin() as session:
        other = ensure_tenant(session, "other")
    held, *many = (submit() for _ in range(30))
    with sessions.begin() as session:
        session.execute(update(Job).where(Job.id == held).values(held=True))  # what stands still holds up nobody
    for _ in range(10):
        claim()
    late = [submit(owner=other) for _ in range(10)]
    order = [claim().job_id for _ in range(10)]
    assert sum(job in late for job in order) == 5
    assert sum(job in many for job in order) == 5


def test_a_job_that_must_wait_or_is_held_is_not_claimed(sessions, submit, claim) -> None:
    waiting, held = submit(), submit()
    with sessions.begin() as session:
        session.execute(update(Job).where(Job.id == waiting).values(run_after=db_now() + timedelta(hours=1)))
        session.execute(update(Job).where(Job.id == held).values(held=True))
    assert claim() is None


def test_the_claim_walks_its_index_without_sorting_the_queue(sessions, submit) -> None:
    with sessions.begin() as session:
        owner = submit()
        session.execute(
            text("""
            INSERT INTO jobs (id, tenant_id, status, model, params, warnings, labels, priority, rank, held, attempt,
                              step, total_steps, losses, transient_failures, input_id)
            SELECT gen_random_uuid(), tenant_id, 'queued', model, params, warnings, labels, 0, n, false, 0, 0, 0, 0, 0,
                   input_id
            FROM jobs, generate_series(1, 20000) AS n WHERE id = :id"""),
            {"id": owner},
        )
        session.execute(text("ANALYZE jobs"))
        plan = session.scalars(
            text("""EXPLAIN SELECT id FROM jobs WHERE status = 'queued' AND NOT held AND model = 'tiny'
            AND (run_after IS NULL OR run_after <= (SELECT clock_timestamp()))
            ORDER BY priority DESC, rank, id LIMIT 1 FOR UPDATE SKIP LOCKED""")
        ).all()
    assert any("jobs_claim_idx" in line for line in plan)
    assert not any("Sort" in line for line in plan)


def test_a_heartbeat_extends_the_lease_and_brings_back_the_flags(sessions, submit, claim) -> None:
    job_id = submit()
    taken = claim(lease_s=1)
    with sessions.begin() as session:
        flags = extend_lease(session, taken, phase=Phase.DENOISE, step=3, total_steps=10, lease_s=60)
    assert (flags.cancel, flags.release) == (False, False)
    job = read(sessions, job_id)
    assert (job.phase, job.step, job.total_steps) == ("denoise", 3, 10)
    with sessions() as session:
        assert session.scalar(select(Job.lease_expires_at > db_now() + timedelta(seconds=50)))

    with sessions.begin() as session:
        cancel_job(session, Job.id == job_id, public_url=URL)
        session.add(Worker(id=WORKER, hostname="h", pid=1, model="tiny", drain_deadline_at=db_now()))
    with sessions.begin() as session:
        flags = extend_lease(session, taken, phase=Phase.DENOISE, step=4, total_steps=10, lease_s=60)
    assert (flags.cancel, flags.release) == (True, True)


def test_of_all_writes_only_a_heartbeat_does_not_wait_for_the_disk(sessions, submit, claim) -> None:
    submit()
    taken = claim()
    waits = text("SHOW synchronous_commit")
    with sessions.begin() as session:
        extend_lease(session, taken, phase=Phase.DENOISE, step=3, total_steps=10, lease_s=60)
        connection = session.connection().connection.driver_connection
        assert session.scalar(waits) == "off"
    with sessions.begin() as session:
        assert session.connection().connection.driver_connection is connection
        assert session.scalar(waits) == "on"


def test_a_stale_attempt_changes_nothing(sessions, submit, claim) -> None:
    job_id = submit()
    stale = claim()
    expire_lease(sessions, job_id)
    with sessions.begin() as session:
        assert reap_lost_job(session, job_id, lease_s=30, max_losses=3, public_url=URL).status == JobStatus.QUEUED
    fresh = claim(new_id())
    assert fresh.attempt == 2
    before = read(sessions, job_id)
    with sessions.begin() as session:
        assert extend_lease(session, stale, phase=Phase.UPLOAD, step=9, total_steps=10, lease_s=60) is None
        assert succeed(session, stale) is None
        assert requeue_job(session, stale.holds(), AttemptOutcome.RELEASED, public_url=URL, reason="released") is None
    after = read(sessions, job_id)
    assert (after.updated_at, after.attempt, after.status) == (before.updated_at, 2, JobStatus.RUNNING)


def test_just_one_of_many_ends_wins(sessions, submit, claim) -> None:
    job_id = submit(webhook_url="https://example.org/hook")
    taken = claim()
    winners: list[JobStatus] = []

    def end(status: JobStatus) -> None:
        with sessions.begin() as session:
            job = end_job(session, taken.holds(), status, public_url=URL, reason="race", error_code="x", result=RESULT)
            if job is not None:
                winners.append(status)

    threads = [threading.Thread(target=end, args=(status,)) for status in list(JobStatus)[2:] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    assert read(sessions, job_id).status == winners[0]
    with sessions() as session:
        assert len(session.scalars(select(WebhookDelivery).where(WebhookDelivery.job_id == job_id)).all()) == 1
    assert [event for event in events(sessions, job_id) if event[2] == "race"] == [(winners[0], 1, "race")]


def test_the_database_itself_refuses_to_revive_a_job_or_to_lower_its_attempt(sessions, submit, claim) -> None:
    job_id = submit()
    taken = claim()
    with pytest.raises(IntegrityError, match="attempt"), sessions.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(attempt=0))
    with sessions.begin() as session:
        succeed(session, taken)
    with pytest.raises(IntegrityError, match="cannot become queued"), sessions.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(status="queued"))


def test_a_lost_job_is_queued_again_and_fails_after_too_many_losses(sessions, submit, claim) -> None:
    job_id = submit()
    for loss in (1, 2, 3):
        claim()
        with sessions.begin() as session:
            # The lease still holds.
            assert reap_lost_job(session, job_id, lease_s=30, max_losses=3, public_url=URL) is None
        expire_lease(sessions, job_id)
        with sessions.begin() as session:
            job = reap_lost_job(session, job_id, lease_s=30, max_losses=3, public_url=URL)
        assert job.losses == loss
    assert (job.status, job.error_code) == (JobStatus.FAILED, "worker_lost")
    with sessions() as session:
        outcomes = session.scalars(select(Attempt.outcome).where(Attempt.job_id == job_id)).all()
    assert outcomes == ["lost"] * 3


def test_a_loss_is_not_counted_once_if_the_worker_fell_silent_with_a_later_job(sessions, submit, claim) -> None:
    finishing, generating = submit(), submit()
    assert (claim().job_id, claim().job_id) == (finishing, generating)
    expire_lease(sessions, finishing)
    with sessions.begin() as session:
        session.execute(
            update(Job).where(Job.id == generating).values(lease_expires_at=db_now() + timedelta(seconds=5))
        )
    with sessions.begin() as session:
        job = reap_lost_job(session, finishing, lease_s=30, max_losses=1, public_url=URL)
    assert (job.status, job.losses) == (JobStatus.QUEUED, 0)
    assert events(sessions, finishing)[-1] == ("queued", 1, "collateral_loss")
    again = claim()
    assert (again.job_id, again.was_lost) == (finishing, True)
    expire_lease(sessions, generating)
    with sessions.begin() as session:
        # It began before the other one's second attempt, but it is the one that was on the device.
        job = reap_lost_job(session, generating, lease_s=30, max_losses=3, public_url=URL)
    assert (job.status, job.losses) == (JobStatus.QUEUED, 1)
    other = claim()
    assert (other.job_id, other.was_lost) == (generating, True)
    expire_lease(sessions, finishing)
    expire_lease(sessions, generating)
    with sessions.begin() as session:
        job = reap_lost_job(session, finishing, lease_s=30, max_losses=1, public_url=URL)
    assert (job.status, job.losses, job.error_code) == (JobStatus.FAILED, 1, "worker_lost")


def test_a_loss_counts_if_the_worker_goes_on_with_a_later_job(sessions, submit, claim) -> None:
    """It was given up by itself; or it ended its process, and the next one has begun a job already."""
    silent, later = submit(), submit()
    assert (claim().job_id, claim().job_id) == (silent, later)
    expire_lease(sessions, silent)
    with sessions.begin() as session:
        job = reap_lost_job(session, silent, lease_s=30, max_losses=3, public_url=URL)
    assert (job.losses, events(sessions, silent)[-1]) == (1, ("queued", 1, "worker_lost"))


def test_a_lost_job_that_was_to_be_canceled_ends_as_canceled(sessions, submit, claim) -> None:
    job_id = submit()
    claim()
    with sessions.begin() as session:
        cancel_job(session, Job.id == job_id, public_url=URL)
    expire_lease(sessions, job_id)
    with sessions.begin() as session:
        assert reap_lost_job(session, job_id, lease_s=30, max_losses=3, public_url=URL).status == JobStatus.CANCELED


@pytest.mark.parametrize("outcome", [AttemptOutcome.RETRIED, AttemptOutcome.RELEASED])
def test_a_job_that_was_to_be_canceled_is_not_queued_again(sessions, submit, claim, outcome) -> None:
    job_id = submit()
    taken = claim()
    with sessions.begin() as session:
        cancel_job(session, Job.id == job_id, public_url=URL)
        job = requeue_job(session, taken.holds(), outcome, public_url=URL, reason="x")
    assert job.status == JobStatus.CANCELED


def test_a_lost_attempt_past_its_deadline_is_lost_rather_than_failed(sessions, submit, claim) -> None:
    job_id = submit()
    claim()
    expire_lease(sessions, job_id)
    with sessions.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(deadline_at=db_now()))
        assert reap_overdue_job(session, job_id, public_url=URL) is None
        assert reap_lost_job(session, job_id, lease_s=30, max_losses=3, public_url=URL).status == JobStatus.QUEUED


def test_a_job_with_parameters_of_another_version_fails_and_blocks_nobody(sessions, submit, claim) -> None:
    odd, sound = submit(webhook_url="https://example.org/hook"), submit()
    with sessions.begin() as session:
        session.execute(
            update(Job).where(Job.id == odd).values(params={**read(sessions, odd).params, "num_frames": 64})
        )
    assert claim().job_id == sound
    job = read(sessions, odd)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "invalid_params")


def test_an_attempt_past_its_deadline_fails_although_its_worker_beats(sessions, submit, claim) -> None:
    job_id = submit()
    claim()
    with sessions.begin() as session:
        assert reap_overdue_job(session, job_id, public_url=URL) is None
        session.execute(update(Job).where(Job.id == job_id).values(deadline_at=db_now()))
    with sessions.begin() as session:
        assert reap_overdue_job(session, job_id, public_url=URL).error_code == "deadline_exceeded"


def test_a_job_too_long_in_the_queue_fails_if_there_is_a_limit(sessions, submit) -> None:
    job_id = submit()
    with sessions.begin() as session:
        assert expire_queued_job(session, job_id, queue_ttl_s=60, public_url=URL) is None
        assert expire_queued_job(session, job_id, queue_ttl_s=1e-6, public_url=URL).error_code == "expired_in_queue"


def test_releasing_counts_neither_as_a_loss_nor_as_a_failure(sessions, submit, claim) -> None:
    job_id = submit()
    taken = claim()
    with sessions.begin() as session:
        requeue_job(session, taken.holds(), AttemptOutcome.RELEASED, public_url=URL, reason="released")
    job = read(sessions, job_id)
    assert (job.status, job.losses, job.transient_failures, job.run_after) == (JobStatus.QUEUED, 0, 0, None)
    assert claim().attempt == 2


def test_a_retry_waits_and_counts(sessions, submit, claim) -> None:
    job_id = submit()
    taken = claim()
    with sessions.begin() as session:
        requeue_job(session, taken.holds(), AttemptOutcome.RETRIED, public_url=URL, reason="retry", delay_s=60)
    assert read(sessions, job_id).transient_failures == 1
    assert claim() is None
    pauses = [retry_pause_s(failures, base_s=2, max_s=300) for failures in range(12)]
    assert all(1 <= pause <= 300 for pause in pauses)
    assert pauses[-1] >= 150


def test_cancel_ends_a_queued_job_at_once_and_is_refused_once_it_has_ended(sessions, submit, claim) -> None:
    queued, ended = submit(), submit(priority=1)
    taken = claim()
    with sessions.begin() as session:
        succeed(session, taken)
        assert cancel_job(session, Job.id == queued, public_url=URL).status == JobStatus.CANCELED
        assert cancel_job(session, Job.id == queued, public_url=URL).status == JobStatus.CANCELED  # again: no change
        with pytest.raises(ConflictError, match="succeeded"):
            cancel_job(session, Job.id == ended, public_url=URL)


def test_a_draining_worker_claims_nothing(sessions, submit, claim) -> None:
    submit()
    with sessions.begin() as session:
        session.add(Worker(id=WORKER, hostname="h", pid=1, model="tiny", drain_deadline_at=db_now()))
    assert claim() is None
    assert claim(new_id()) is not None


def test_a_tenant_with_too_many_queued_jobs_is_told_to_wait(submit) -> None:
    submit(queued_jobs_max=2)
    submit(queued_jobs_max=2)
    with pytest.raises(RateLimitedError, match="at most 2 jobs"):
        submit(queued_jobs_max=2)


def test_deleting_a_running_job_flags_it_and_hides_it(sessions, submit, claim) -> None:
    job_id = submit(webhook_url="https://example.org/hook")
    taken = claim()
    with sessions.begin() as session:
        assert request_deletion(session, Job.id == job_id, public_url=URL)
        assert not request_deletion(session, Job.id == job_id, public_url=URL)
    with sessions.begin() as session:
        flags = extend_lease(session, taken, phase=Phase.DENOISE, step=1, total_steps=2, lease_s=30)
    assert flags.cancel
    assert read(sessions, job_id).delete_requested_at is not None


def test_a_terminal_job_with_a_webhook_has_one_delivery_with_the_job_as_its_body(sessions, submit, claim) -> None:
    job_id = submit(webhook_url="https://example.org/hook")
    taken = claim()
    with sessions.begin() as session:
        succeed(session, taken)
    with sessions() as session:
        delivery = session.scalars(select(WebhookDelivery).where(WebhookDelivery.job_id == job_id)).one()
    assert (delivery.status, delivery.tries, delivery.event_type) == (DeliveryStatus.PENDING, 0, "job.succeeded")
    assert f'"id":"job_{job_id.hex}"'.encode() in delivery.body
