"""What is kept, and what is collected: files past their time, uploads of dead attempts, images that nobody uses."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update
from support import PUBLIC_URL, Service

from shared.database import Sessions, db_now
from shared.ids import new_id, parse_id, show_id
from shared.jobs.end import end_job
from shared.jobs.reap import reap_lost_job
from shared.objects import ObjectStore
from shared.settings import Settings
from shared.states import JobStatus
from shared.tables import Attempt, Input, Job
from worker.maintenance.collect import collect_orphans, expire_results


@pytest.fixture
def kept(settings: Settings) -> Settings:
    return settings.model_copy(update={"retention_days": 30.0})


def make_old(sessions: Sessions, column: Any, days: float) -> None:
    with sessions.begin() as session:
        session.execute(update(column.class_).values({column: db_now() - timedelta(days=days)}))


def test_files_past_their_time_are_gone_and_the_record_says_so(
    service: Service, rocket: bytes, sessions: Sessions, store: ObjectStore, kept: Settings
) -> None:
    service.start_all()
    job = service.submit(rocket, num_inference_steps=2, frames_format="png")
    service.await_status(job["id"], "succeeded")
    assert expire_results(sessions, store, kept) == 0
    make_old(sessions, Job.finished_at, 31)
    assert expire_results(sessions, store, kept.model_copy(update={"retention_days": None})) == 0
    assert expire_results(sessions, store, kept) == 1
    assert expire_results(sessions, store, kept) == 0
    shown = service.job(job["id"])
    assert (shown["status"], shown["result"], shown["links"]["video"]) == ("succeeded", None, None)
    assert shown["expired_at"] is not None
    for path in ("video", "manifest", "frames/0"):
        assert service.request("GET", f"/v1/jobs/{job['id']}/{path}").status == 410
    assert list(store.list_keys("")) == []


def test_an_image_that_a_younger_job_uses_stays(
    client: Any, rocket: bytes, sessions: Sessions, store: ObjectStore, kept: Settings
) -> None:
    uploaded = client.post("/v1/inputs", data={"image": (io.BytesIO(rocket), "a.jpg")}).json
    old, _ = (client.post("/v1/jobs", json={"model": "double", "input_id": uploaded["id"]}).json for _ in range(2))
    with sessions.begin() as session:
        job_id = parse_id("job", old["id"])
        file = {"key": "k", "size_bytes": 1, "sha256": "0" * 64, "media_type": "video/mp4"}
        end_job(
            session,
            Job.id == job_id,
            JobStatus.SUCCEEDED,
            public_url=PUBLIC_URL,
            reason="x",
            result={
                "video": file,
                "frames": [],
                "manifest": file,
                "num_frames": 2,
                "width": 64,
                "height": 64,
                "duration_s": 1,
            },
        )
        session.execute(update(Job).where(Job.id == job_id).values(finished_at=db_now() - timedelta(days=31)))
    assert expire_results(sessions, store, kept) == 1
    assert len(list(store.list_keys("inputs/"))) == 1


def test_uploads_of_a_lost_attempt_are_collected_once_its_worker_cannot_be_writing(
    sessions: Sessions, store: ObjectStore, settings: Settings, submit: Any, claim: Any
) -> None:
    job_id = submit()
    claim()
    prefix = f"jobs/{show_id('job', job_id)}/attempts"
    store.put(f"{prefix}/1/video.mp4", b"half", media_type="video/mp4")
    with sessions.begin() as session:
        session.execute(update(Job).values(lease_expires_at=db_now() - timedelta(seconds=1)))
    with sessions.begin() as session:
        reap_lost_job(session, job_id, lease_s=30, max_losses=3, public_url=PUBLIC_URL)
    winner = claim()
    store.put(f"{prefix}/2/video.mp4", b"whole", media_type="video/mp4")
    with sessions.begin() as session:
        end_job(session, winner.holds(), JobStatus.SUCCEEDED, public_url=PUBLIC_URL, reason="x", result={})
    assert collect_orphans(sessions, store, settings) == 0  # a frozen worker may wake up and go on writing
    make_old(sessions, Attempt.ended_at, 1)
    assert collect_orphans(sessions, store, settings) == 1
    assert collect_orphans(sessions, store, settings) == 0
    assert list(store.list_keys("jobs/")) == [f"{prefix}/2/video.mp4"]


def test_an_image_that_no_job_uses_is_collected_after_its_days(
    client: Any, rocket: bytes, sessions: Sessions, store: ObjectStore, settings: Settings
) -> None:
    unused, used = (
        client.post("/v1/inputs", data={"image": (io.BytesIO(rocket), "a.jpg")}).json["id"] for _ in range(2)
    )
    client.post("/v1/jobs", json={"model": "double", "input_id": used})
    assert collect_orphans(sessions, store, settings) == 0
    make_old(sessions, Input.created_at, 8)
    assert collect_orphans(sessions, store, settings) == 1
    assert client.get(f"/v1/inputs/{unused}").status_code == 404
    assert client.get(f"/v1/inputs/{used}").status_code == 200


def test_an_image_without_a_row_is_collected_after_a_day(
    sessions: Sessions, store: ObjectStore, settings: Settings
) -> None:
    yesterday = int((datetime.now(UTC) - timedelta(days=2)).timestamp() * 1000)
    old = UUID(int=(yesterday << 80) | (new_id().int & (1 << 80) - 1))
    for input_id in (old, new_id()):
        store.put(f"inputs/{show_id('inp', input_id)}.png", b"x", media_type="image/png")
    assert collect_orphans(sessions, store, settings) == 1
    (left,) = store.list_keys("inputs/")
    assert show_id("inp", old) not in left
