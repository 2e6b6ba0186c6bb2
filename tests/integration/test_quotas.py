"""Quotas of tenants: queued jobs and stored bytes, counted in Postgres."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from photos import data_uri, encode
from PIL import Image
from sqlalchemy import Engine, func, select, text, update
from support import eventually

import migrations
from api.auth import create_key, ensure_tenant
from shared.database import Sessions
from shared.errors import RateLimitedError
from shared.jobs.accept import insert_job
from shared.jobs.end import end_job
from shared.objects import ObjectStore
from shared.quotas import Quotas
from shared.settings import Settings
from shared.states import JobStatus
from shared.tables import Input, Job, Tenant
from worker.maintenance.collect import expire_results
from worker.maintenance.erase import erase_deleted_jobs


@pytest.fixture
def photo() -> bytes:
    return encode(Image.effect_noise((96, 64), 60).convert("RGB"))


def submit(client: Any, photo: bytes, **options: Any) -> Any:
    return client.post("/v1/jobs", data={"image": (io.BytesIO(photo), "a.png"), "model": "double"}, **options)


def stored(sessions: Sessions, name: str = "default") -> int:
    with sessions() as session:
        return session.scalars(select(Tenant.storage_bytes).where(Tenant.name == name)).one()


def set_quota(sessions: Sessions, **values: int | None) -> None:
    with sessions.begin() as session:
        session.execute(update(Tenant).where(Tenant.name == "default").values(**values))


def succeed(sessions: Sessions, *sizes: int) -> None:
    """End every queued job with files of these sizes: video, manifest, frames."""
    video, manifest, *frames = ({"key": f"k{n}", "size_bytes": size} for n, size in enumerate(sizes))
    with sessions.begin() as session:
        for job_id in session.scalars(select(Job.id).where(Job.status == JobStatus.QUEUED)).all():
            end_job(
                session,
                Job.id == job_id,
                JobStatus.SUCCEEDED,
                public_url="http://x",
                reason="succeeded",
                result={"video": video, "manifest": manifest, "frames": frames},
            )


def test_what_is_stored_is_counted_from_upload_to_erasure(
    client: Any, photo: bytes, sessions: Sessions, store: ObjectStore, settings: Settings
) -> None:
    job = submit(client, photo).json
    with sessions() as session:
        image_bytes = session.scalars(select(Input.size_bytes)).one()
    assert stored(sessions) == image_bytes
    succeed(sessions, 1000, 50, 10, 20)
    assert stored(sessions) == image_bytes + 1080
    usage = client.get("/v1/usage").json
    assert (usage["storage_bytes"], usage["storage_bytes_max"], usage["queued_jobs"]) == (image_bytes + 1080, None, 0)
    client.delete(f"/v1/jobs/{job['id']}")
    assert erase_deleted_jobs(sessions, store) == 1
    assert stored(sessions) == 0


def test_results_past_their_retention_are_counted_no_longer(
    client: Any, photo: bytes, sessions: Sessions, store: ObjectStore, settings: Settings
) -> None:
    submit(client, photo)
    succeed(sessions, 1000, 50)
    with sessions.begin() as session:
        session.execute(text("UPDATE jobs SET finished_at = clock_timestamp() - interval '2 days'"))
    assert expire_results(sessions, store, settings.model_copy(update={"retention_days": 1.0})) == 1
    assert stored(sessions) == 0


def test_a_tenant_without_room_is_refused_and_leaves_nothing(
    make_client: Any, photo: bytes, sessions: Sessions, store: ObjectStore
) -> None:
    client = make_client(storage_bytes_max=1000)
    client.get("/v1/jobs")
    for path in ("/v1/jobs", "/v1/inputs"):
        answer = client.post(path, data={"image": (io.BytesIO(photo), "a.png")})
        assert (answer.status_code, answer.json["code"]) == (403, "quota_exceeded")
        assert "at most 1000 bytes of images and results may be kept, 0 are" in answer.json["detail"]
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Input)) == 0
    assert list(store.list_keys("")) == []
    assert stored(sessions) == 0


def test_a_full_tenant_cannot_start_jobs_on_what_it_uploaded_before(
    client: Any, photo: bytes, sessions: Sessions
) -> None:
    input_id = client.post("/v1/inputs", data={"image": (io.BytesIO(photo), "a.png")}).json["id"]
    set_quota(sessions, storage_bytes_max=stored(sessions))
    answer = client.post("/v1/jobs", json={"input_id": input_id, "model": "double"})
    assert answer.json["code"] == "quota_exceeded"
    set_quota(sessions, storage_bytes_max=None)
    assert client.post("/v1/jobs", json={"input_id": input_id, "model": "double"}).status_code == 202


def test_a_tenants_own_quota_goes_before_the_settings_and_binds_nobody_else(
    make_client: Any, photo: bytes, sessions: Sessions
) -> None:
    client = make_client(queued_jobs_max=100)
    assert submit(client, photo).status_code == 202
    set_quota(sessions, queued_jobs_max=1)
    answer = submit(client, photo)
    assert (answer.status_code, answer.json["code"], answer.headers["Retry-After"]) == (429, "rate_limited", "2")
    assert "at most 1 jobs may wait" in answer.json["detail"]
    with sessions.begin() as session:
        _, key = create_key(session, ensure_tenant(session, "other"), "k")
    assert submit(client, photo, headers={"Authorization": f"Bearer {key}"}).status_code == 202
    usage = client.get("/v1/usage").json
    assert (usage["queued_jobs"], usage["queued_jobs_max"]) == (1, 1)


def test_a_priority_above_the_tenants_is_refused_and_leaves_nothing(
    make_client: Any, photo: bytes, sessions: Sessions, store: ObjectStore
) -> None:
    client = make_client(priority_max=0)
    job = {"image_url": data_uri(photo), "priority": 5}
    experiment = {"name": "first", "images": [{"image_url": data_uri(photo)}], "grid": {"seed": [1]}, "priority": 5}
    for path, body in (("/v1/jobs", job), ("/v1/experiments", experiment)):
        answer = client.post(path, json=body)
        assert (answer.status_code, answer.json["code"]) == (422, "invalid_input")
        assert answer.json["errors"][0]["field"] == "priority"
        assert answer.json["detail"] == "priority must be at most 0 for this tenant, got 5"
    assert list(store.list_keys("")) == []
    assert client.post("/v1/jobs", json={**job, "priority": -5}).status_code == 202
    set_quota(sessions, priority_max=5)
    assert client.get("/v1/usage").json["priority_max"] == 5
    assert client.post("/v1/jobs", json=job).status_code == 202
    assert client.post("/v1/experiments", json=experiment).status_code == 202
    assert client.post("/v1/jobs", json={**job, "priority": 6}).status_code == 422


def test_requests_at_the_same_moment_do_not_pass_the_quota_of_jobs(submit: Any) -> None:
    def try_one(_: int) -> bool:
        try:
            submit(queued_jobs_max=5)
        except RateLimitedError:
            return False
        return True

    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(try_one, range(24))) == 5


@pytest.mark.parametrize(
    ("path", "quota", "code"),
    [
        ("/v1/jobs", "queued_jobs_max", "rate_limited"),
        ("/v1/experiments", "queued_jobs_max", "rate_limited"),
        ("/v1/jobs", "storage_bytes_max", "quota_exceeded"),
        ("/v1/inputs", "storage_bytes_max", "quota_exceeded"),
    ],
)
def test_who_asks_while_another_takes_the_last_place_is_refused(
    client: Any, photo: bytes, sessions: Sessions, new_job: Any, path: str, quota: str, code: str
) -> None:
    image_url = data_uri(photo)
    body = {"image_url": image_url}
    if path == "/v1/experiments":
        body = {"name": "late", "images": [body], "grid": {"seed": [1]}}
    room = 10**9
    set_quota(sessions, **{quota: 1 if quota == "queued_jobs_max" else room})

    def late_one_waits_or_is_through() -> bool:
        with sessions() as session:
            waits = "SELECT true FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            return late.done() or session.scalar(text(waits)) is True

    # Two transactions, interleaved: both see room before either has taken it.
    with sessions() as first, ThreadPoolExecutor() as pool:
        insert_job(first, new_job(size_bytes=room), Quotas(100))
        late = pool.submit(client.post, path, json=body)
        eventually(late_one_waits_or_is_through)
        first.commit()
    assert late.result().json["code"] == code


def test_the_migration_counts_what_is_there_already(
    client: Any, photo: bytes, sessions: Sessions, engine: Engine
) -> None:
    submit(client, photo)
    succeed(sessions, 1000, 50)
    before = stored(sessions)
    with engine.connect() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        command.upgrade(config, "head")
        connection.commit()
    assert stored(sessions) == before > 1050
