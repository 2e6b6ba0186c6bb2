"""The audit sees what it is there for: each promise, broken by hand."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

import pytest
from audit import Ledger, audit
from sqlalchemy import Engine, text
from sqlalchemy.orm import sessionmaker
from support import WORKER_ID, eventually

from shared.database import Sessions
from shared.ids import new_id, show_id
from shared.objects import ObjectStore
from shared.settings import Settings
from worker.attempt import Services
from worker.double import DoublePipeline
from worker.generate import Generator

_RECEIVER = "http://127.0.0.1:80/hook"


@pytest.fixture
def job(
    client: Any, rocket: bytes, engine: Engine, sessions: Sessions, settings: Settings, store: ObjectStore
) -> dict[str, Any]:
    """One that succeeded; its webhook is still to be sent."""
    form = {"model": "double", "num_inference_steps": "1", "webhook_url": _RECEIVER}
    made = client.post("/v1/jobs", data={**form, "image": (io.BytesIO(rocket), "a.jpg")}).json
    services = Services(settings=settings, sessions=sessions, store=store)
    assert Generator(services, engine, DoublePipeline(), model="double", worker_id=WORKER_ID).run_next()
    # Its lease's thread ends a moment later, and gives its connection back.
    eventually(lambda: not any(thread.name.startswith("lease-") for thread in threading.enumerate()))
    return made


def _drop(key: str) -> Callable[[ObjectStore], None]:
    return lambda store: store.delete(next(name for name in store.list_keys("") if name.endswith(key)))


def _damage(key: str) -> Callable[[ObjectStore], None]:
    def damage(store: ObjectStore) -> None:
        name = next(name for name in store.list_keys("jobs/") if name.endswith(key))
        content = bytearray(store.get(name))
        content[len(content) // 2] ^= 1
        store.put(name, bytes(content), media_type="video/mp4")

    return damage


def _leave(attempt: int) -> Callable[[ObjectStore], None]:
    def leave(store: ObjectStore) -> None:
        folder = next(name for name in store.list_keys("jobs/")).rpartition("attempts/")[0]
        store.put(f"{folder}attempts/{attempt}/video.mp4", b"half", media_type="video/mp4")

    return leave


_IN_THE_DATABASE = {
    "INSERT INTO job_events (job_id, status, attempt, reason) SELECT id, 'failed', 1, 'x' FROM jobs": (
        "2 terminal events"
    ),
    "DELETE FROM job_events WHERE status = 'succeeded'": "0 terminal events",
    "DELETE FROM job_events WHERE status = 'running'": "its events are",
    "UPDATE attempts SET outcome = 'lost'": "succeeded after ['1 lost']",
    "UPDATE attempts SET outcome = NULL": "an attempt without an end",
    "UPDATE attempts SET attempt = 2": "attempt 1, and its attempts are",
    "UPDATE jobs SET losses = 1": "counts 1 lost attempts",
    "DELETE FROM webhook_deliveries": "0 deliveries",
    "UPDATE webhook_deliveries SET event_type = 'job.failed'": "its message is job.failed",
    "UPDATE webhook_deliveries SET status = 'delivered', tries = 0": "was never sent",
    "UPDATE jobs SET params = '{}'": "its manifest has other parameters",
    """UPDATE jobs SET result = jsonb_set(result, '{video,sha256}', '"0"')""": "the checksum of",
}


def test_each_promise_that_is_broken_in_the_database_is_found(
    job: dict[str, Any], engine: Engine, sessions: Sessions, store: ObjectStore
) -> None:
    ledger = Ledger()
    ledger.note(job)
    assert audit(sessions, store, ledger, deliveries_ended=False) == []
    assert "still to be delivered" in "".join(audit(sessions, store, ledger))
    with engine.connect() as connection:
        undone = sessionmaker(connection, join_transaction_mode="create_savepoint")
        for statement, message in _IN_THE_DATABASE.items():
            with connection.begin() as breach:
                connection.execute(text("SET LOCAL session_replication_role = replica"))  # no triggers that forbid it
                connection.execute(text(statement))
                broken = audit(undone, store, ledger, deliveries_ended=False)
                breach.rollback()
            assert message in "\n".join(broken), statement


@pytest.mark.parametrize(
    ("breach", "message"),
    [
        (_drop("video.mp4"), "no object"),
        (_drop("manifest.json"), "no object"),
        (_drop(".png"), "its image"),
        (_damage("video.mp4"), "the checksum of"),
        (_leave(2), "an object of a losing attempt"),
    ],
    ids=["no video", "no manifest", "no image", "damaged video", "leftover"],
)
def test_each_promise_that_is_broken_in_the_store_is_found(
    job: dict[str, Any], sessions: Sessions, store: ObjectStore, breach: Callable[[ObjectStore], None], message: str
) -> None:
    breach(store)
    assert message in "\n".join(audit(sessions, store, Ledger(), deliveries_ended=False))


def test_a_job_that_is_missing_or_unfinished_or_unknown_is_found(
    client: Any, rocket: bytes, sessions: Sessions, store: ObjectStore
) -> None:
    ledger = Ledger()
    waiting = client.post("/v1/jobs", data={"model": "double", "image": (io.BytesIO(rocket), "a.jpg")}).json
    ledger.note(waiting)
    missing = show_id("job", new_id())
    ledger.accepted.add(missing)
    store.put("jobs/job_x/attempts/1/video.mp4", b"x", media_type="video/mp4")
    assert audit(sessions, store, ledger) == [
        f"{missing}: accepted, and not in the database",
        "jobs/job_x/attempts/1/video.mp4: an object of no job",
        f"{waiting['id']}: still queued",
    ]
