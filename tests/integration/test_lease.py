"""An attempt's lease, against a Postgres that answers late, and the stages that stand on it."""

from __future__ import annotations

import shutil
import time
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, select, update
from support import PUBLIC_URL, WORKER_ID, eventually

from shared.database import Sessions, db_now
from shared.errors import DeadlineExceededError, StorageError
from shared.jobs.stop import cancel_job
from shared.settings import Settings
from shared.states import JobStatus, Phase
from shared.tables import Attempt, Job
from worker.attempt import Services
from worker.double import DoublePipeline
from worker.generate import Generator
from worker.lease import AttemptStopped, Lease, StopReason

SHORT = {"lease_s": 1.5, "heartbeat_s": 0.3}


def wait_for_stop(lease: Lease, *, within_s: float = 5) -> StopReason:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            lease.progress(Phase.DENOISE, 1, 10)
        except AttemptStopped as stopped:
            return stopped.reason
        time.sleep(0.05)
    raise AssertionError("never told to stop")


def test_work_stops_before_its_lease_ends_although_a_heartbeat_hangs(
    engine: Engine, sessions: Sessions, settings: Settings, submit: Any, claim: Any
) -> None:
    job_id = submit()
    with Lease(engine, claim(), settings.model_copy(update=SHORT)) as lease:
        lease.progress(Phase.DENOISE, 1, 10)
        with sessions.begin() as other:
            other.execute(select(Job).where(Job.id == job_id).with_for_update())  # heartbeats wait here
            started = time.monotonic()
            assert wait_for_stop(lease) is StopReason.CUT_OFF
            assert time.monotonic() - started < SHORT["lease_s"]
            assert lease.is_lost


def test_a_canceled_attempt_keeps_its_lease_until_it_has_stopped(
    engine: Engine, sessions: Sessions, settings: Settings, submit: Any, claim: Any
) -> None:
    job_id = submit()
    with Lease(engine, claim(lease_s=1.5), settings.model_copy(update=SHORT)) as lease:
        with sessions.begin() as session:
            cancel_job(session, Job.id == job_id, public_url=PUBLIC_URL)
        assert wait_for_stop(lease) is StopReason.CANCEL
        time.sleep(2)  # one long step
        with sessions() as session:
            assert session.scalar(select(Job.lease_expires_at > db_now()).where(Job.id == job_id))
        assert not lease.is_lost


def test_an_attempt_that_somebody_else_holds_stops(
    engine: Engine, sessions: Sessions, settings: Settings, submit: Any, claim: Any
) -> None:
    job_id = submit()
    with Lease(engine, claim(), settings.model_copy(update=SHORT)) as lease:
        with sessions.begin() as session:
            session.execute(update(Job).where(Job.id == job_id).values(attempt=2))
        assert wait_for_stop(lease) is StopReason.LOST


def test_an_attempt_stops_at_its_deadline(engine: Engine, settings: Settings, submit: Any, claim: Any) -> None:
    submit()
    with Lease(engine, claim(), settings.model_copy(update={"attempt_deadline_s": 2.2})) as lease:
        lease.progress(Phase.DENOISE, 1, 10)
        time.sleep(0.3)
        with pytest.raises(DeadlineExceededError, match=r"attempt_deadline_s allows \(2.2 s\)"):
            lease.progress(Phase.DENOISE, 2, 10)


@pytest.fixture
def generator(engine: Engine, sessions: Sessions, settings: Settings, store: Any) -> Callable[..., Generator]:
    def make(**changes: Any) -> Generator:
        services = Services(settings=settings.model_copy(update=changes), sessions=sessions, store=store)
        return Generator(services, engine, DoublePipeline(step_s=0.001), model="tiny", worker_id=WORKER_ID)

    return make


def test_a_worker_without_room_on_its_disk_claims_nothing(
    generator: Any, sessions: Sessions, submit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit()
    usage = namedtuple("usage", "total used free")(100, 99, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)  # a full disk, without filling one
    with pytest.raises(StorageError, match="has 1 bytes left"):
        generator().run_next()
    with sessions() as session:
        assert session.get_one(Job, job_id).status == JobStatus.QUEUED


def test_an_image_that_is_not_the_accepted_one_is_not_used(
    generator: Any, sessions: Sessions, submit: Any, store: Any
) -> None:
    job_id = submit()
    store.put("inputs/x.png", b"another image", media_type="image/png")
    assert generator().run_next()
    with sessions() as session:
        job = session.get_one(Job, job_id)
        attempt = session.scalars(select(Attempt).where(Attempt.job_id == job_id)).one()
    assert (job.status, job.transient_failures, attempt.outcome) == (JobStatus.QUEUED, 1, "retried")
    assert "another image" in (attempt.error_message or "")


def test_a_job_whose_retries_are_used_up_fails_with_the_last_error(
    generator: Any, sessions: Sessions, submit: Any, store: Any
) -> None:
    job_id = submit()
    store.put("inputs/x.png", b"another image", media_type="image/png")
    worker = generator(max_transient_failures=1, retry_base_s=0.01)
    assert worker.run_next()
    eventually(worker.run_next)
    with sessions() as session:
        job = session.get_one(Job, job_id)
    assert (job.status, job.attempt, job.error_code) == (JobStatus.FAILED, 2, "storage_unavailable")
