"""The audit sees what it is there for: each promise, broken by hand."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from audit import Ledger, audit
from experiment_audit import check_experiments
from photos import data_uri
from sqlalchemy import Connection, Engine, text
from sqlalchemy.orm import sessionmaker
from support import WORKER_ID, eventually

from bench.soak.promises import PROMISES, broken_promises
from shared.database import Sessions
from shared.ids import new_id, show_id
from shared.objects import ObjectStore
from shared.settings import Settings
from worker.attempt import Services
from worker.double import DoublePipeline
from worker.generate import Generator

_RECEIVER = "http://127.0.0.1:80/hook"


@pytest.fixture
def run_next(engine: Engine, sessions: Sessions, settings: Settings, store: ObjectStore) -> Callable[[], None]:
    """Runs the best job to its end, in this process."""
    services = Services(settings=settings, sessions=sessions, store=store)
    generator = Generator(services, engine, DoublePipeline(), model="double", worker_id=WORKER_ID)

    def run_next() -> None:
        assert generator.run_next()
        generator.finisher.join()
        # Its lease's thread ends a moment later, and gives its connection back.
        eventually(lambda: not any(thread.name.startswith("lease-") for thread in threading.enumerate()))

    return run_next


@pytest.fixture
def job(client: Any, rocket: bytes, run_next: Callable[[], None]) -> dict[str, Any]:
    """One that succeeded; its webhook is still to be sent."""
    form = {"model": "double", "num_inference_steps": "1", "webhook_url": _RECEIVER}
    made = client.post("/v1/jobs", data={**form, "image": (io.BytesIO(rocket), "a.jpg")}).json
    run_next()
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


#: a breach, and what the audit must say of it.
_OF_A_JOB = [
    (
        "INSERT INTO job_events (job_id, status, attempt, reason) SELECT id, 'failed', 1, 'x' FROM jobs",
        "2 terminal events",
    ),
    ("DELETE FROM job_events WHERE status = 'succeeded'", "0 terminal events"),
    ("DELETE FROM job_events WHERE status = 'running'", "its events are"),
    ("UPDATE attempts SET outcome = 'lost'", "succeeded after ['1 lost']"),
    ("UPDATE attempts SET outcome = NULL", "an attempt without an end"),
    ("UPDATE attempts SET attempt = 2", "attempt 1, and its attempts are"),
    ("DELETE FROM attempts", "succeeded without an attempt"),
    ("UPDATE jobs SET losses = 1", "counts 1 lost attempts"),
    ("UPDATE jobs SET transient_failures = 1", "counts 1 retried attempts"),
    (
        """INSERT INTO job_events (job_id, status, attempt, reason)
           SELECT id, 'queued', 1, 'collateral_loss' FROM jobs, generate_series(1, 2)""",
        "2 losses that are not counted",
    ),
    ("UPDATE jobs SET attempt = 2", "its result is not of attempt 2"),
    ("UPDATE jobs SET attempt = 2", "attempt 1\n"),  # its manifest
    ("UPDATE jobs SET params = '{}'", "its manifest has other parameters"),
    ("""UPDATE jobs SET result = jsonb_set(result, '{video,sha256}', '"0"')""", "the checksum of"),
    ("""UPDATE jobs SET result = jsonb_set(result, '{video,sha256}', '"0"')""", "its manifest lists"),
    ("UPDATE jobs SET status = 'failed'", "failed, with a result"),
    ("UPDATE jobs SET status = 'failed', result = NULL", "failed, with an object"),
    ("UPDATE jobs SET delete_requested_at = clock_timestamp()", "deleted, and not erased"),
    ("UPDATE jobs SET delete_requested_at = created_at, erased_at = created_at", "erased, with content"),
    ("UPDATE jobs SET expired_at = created_at", "its result is gone, and its record names it"),
    ("UPDATE jobs SET expired_at = created_at, result = NULL", "its result is gone, and there is an object"),
    ("DELETE FROM webhook_deliveries", "0 deliveries"),
    ("UPDATE webhook_deliveries SET event_type = 'job.failed'", "its message is job.failed"),
    (
        """UPDATE webhook_deliveries
           SET body = convert_to(replace(convert_from(body, 'UTF8'), '"succeeded"', '"failed"'), 'UTF8')""",
        "its message has another status in its body",
    ),
    ("UPDATE webhook_deliveries SET status = 'delivered', tries = 0", "was never sent"),
]
_OF_AN_EXPERIMENT = [
    ("DELETE FROM experiment_cells WHERE index = 0", "its cells are [1]"),
    ("DELETE FROM experiment_cells WHERE index = 0", "its jobs ended as"),
    ("UPDATE experiment_cells SET id = gen_random_uuid()", "its cell 0 has the id"),
    ("UPDATE experiment_cells SET reused = true", "reused: True"),
    ("UPDATE experiment_cells SET tries = 2", "it has made 2 jobs in 4 tries"),
    ("UPDATE experiments SET finished_at = NULL", "not finished"),
    ("UPDATE experiments SET tenant_id = gen_random_uuid()", "its cell 0 has a job of another tenant"),
    ("UPDATE jobs SET params = jsonb_set(params, '{fps}', '9')", "its cell 0 has a job of {"),
    (
        """WITH other AS (
               INSERT INTO inputs (id, tenant_id, object_key, sha256, size_bytes, width, height, media_type)
               SELECT gen_random_uuid(), tenant_id, 'x', repeat('0', 64), 1, 64, 64, 'image/png' FROM inputs
               RETURNING id)
           UPDATE jobs SET input_id = other.id FROM other""",
        "its cell 0 has a job of another image",
    ),
    ("DELETE FROM webhook_deliveries", "it finished 1 times, and its messages are of []"),
    ("UPDATE experiments SET rounds = 2", "it finished 2 times, and its messages are of [1]"),
    ("UPDATE webhook_deliveries SET event_type = 'job.failed'", "its message is job.failed of finished"),
    (
        """UPDATE webhook_deliveries
           SET body = convert_to(replace(convert_from(body, 'UTF8'), '"queued":0', '"queued":1'), 'UTF8')""",
        "its message counts {",
    ),
]


def breached(
    engine: Engine, breaches: list[tuple[str, str]], judge: Callable[[Connection], list[str]]
) -> Iterator[tuple[str, str, str]]:
    """Each breach, what must be said of it, and what is; undone afterwards."""
    with engine.connect() as connection:
        for statement, message in breaches:
            with connection.begin() as breach:
                connection.exec_driver_sql("SET LOCAL session_replication_role = replica")  # no triggers that forbid it
                connection.exec_driver_sql(statement)
                found = "\n".join(judge(connection)) + "\n"
                breach.rollback()
            yield statement, message, found


def test_each_promise_about_a_job_that_is_broken_in_the_database_is_found(
    job: dict[str, Any], engine: Engine, sessions: Sessions, store: ObjectStore
) -> None:
    ledger = Ledger()
    ledger.note(job)
    assert audit(sessions, store, ledger, deliveries_ended=False) == []
    assert "still to be delivered" in "".join(audit(sessions, store, ledger))
    broken: set[str] = set()

    def judge(connection: Connection) -> list[str]:
        # The soak's and the state machine's, which know the database only.
        broken.update(broken_promises(lambda statement: connection.execute(text(statement))))
        undone = sessionmaker(connection, join_transaction_mode="create_savepoint")
        return audit(undone, store, ledger, deliveries_ended=False)

    for statement, message, found in breached(engine, _OF_A_JOB, judge):
        assert message in found, statement
    assert broken == set(PROMISES)


def test_each_promise_about_an_experiment_that_is_broken_is_found(
    client: Any, rocket: bytes, engine: Engine, sessions: Sessions, run_next: Callable[[], None]
) -> None:
    body = {
        "name": "sweep",
        "model": "double",
        "images": [{"image_url": data_uri(rocket)}],
        "grid": {"fps": [7, 8]},
        "webhook_url": _RECEIVER,
    }
    answer = client.post("/v1/experiments", json={**body, "base": {"num_inference_steps": 1}})
    assert answer.status_code == 202, answer.json
    experiment = answer.json
    run_next()
    run_next()

    def judge(connection: Any, **options: Any) -> list[str]:
        undone = sessionmaker(connection, join_transaction_mode="create_savepoint")
        return check_experiments(undone, {experiment["id"]}, **{"deliveries_ended": False, **options})

    assert judge(engine) == []
    assert "still to be delivered" in "".join(judge(engine, deliveries_ended=True))
    missing = show_id("exp", new_id())
    assert check_experiments(sessions, {missing}, deliveries_ended=False) == [
        f"{missing}: accepted, and not in the database"
    ]
    for statement, message, found in breached(engine, _OF_AN_EXPERIMENT, judge):
        assert message in found, statement


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
