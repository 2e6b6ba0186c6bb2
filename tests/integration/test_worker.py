"""The worker as a real process: progress, cancel, drain, loss, retries, and what it leaves in the store."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update
from support import Service, eventually

from shared.database import Sessions
from shared.exit_codes import ExitCode
from shared.ids import parse_id
from shared.settings import Settings
from shared.tables import Attempt, Job, Worker
from worker.checkpoint import TINY

FAST = {"heartbeat_s": 0.5, "lease_s": 3, "maintain_interval_s": 0.5}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update=FAST)


def outcomes(sessions: Sessions, job_id: str) -> list[str | None]:
    with sessions() as session:
        statement = select(Attempt.outcome).where(Attempt.job_id == parse_id("job", job_id)).order_by(Attempt.attempt)
        return list(session.scalars(statement))


def await_step(service: Service, job_id: str, step: int = 2) -> None:
    eventually(lambda: ((service.job(job_id)["progress"] or {}).get("step") or 0) >= step)


def test_progress_is_seen_while_the_job_runs_and_the_result_is_whole(service: Service, rocket: bytes, store) -> None:
    service.start_all()
    job = service.submit(rocket, num_inference_steps=40)
    await_step(service, job["id"], 5)
    progress = service.job(job["id"])["progress"]
    assert (progress["phase"], progress["total_steps"]) == ("denoise", 40)
    assert 0 < progress["fraction"] < 1
    job = service.await_status(job["id"], "succeeded")
    prefix = f"jobs/{job['id']}/attempts/1/"
    assert set(store.list_keys("jobs/")) == {f"{prefix}video.mp4", f"{prefix}manifest.json"}
    manifest = json.loads(store.get(f"{prefix}manifest.json"))
    assert [file["sha256"] for file in manifest["files"]] == [job["result"]["video"]["sha256"]]


def test_the_same_request_gives_the_same_frames(service: Service, rocket: bytes) -> None:
    service.start_all()
    jobs = [service.submit(rocket, num_inference_steps=2, seed=5, frames_format="png") for _ in range(2)]
    results = [service.await_status(job["id"], "succeeded")["result"] for job in jobs]
    assert [f["sha256"] for f in results[0]["frames"]] == [f["sha256"] for f in results[1]["frames"]]


def test_cancel_stops_a_running_job_within_moments(service: Service, rocket: bytes, sessions, store) -> None:
    service.start_all(heartbeat_s=10, lease_s=30)  # the flag does not wait for a heartbeat
    job = service.submit(rocket, num_inference_steps=100)
    await_step(service, job["id"])
    asked = time.monotonic()
    assert service.request("POST", f"/v1/jobs/{job['id']}/cancel").json()["cancel_requested_at"]
    service.await_status(job["id"], "canceled")
    assert time.monotonic() - asked < 3
    assert outcomes(sessions, job["id"]) == ["canceled"]
    assert list(store.list_keys("jobs/")) == []


def test_deleting_a_running_job_stops_it_and_erases_everything(
    service: Service, rocket: bytes, sessions, store
) -> None:
    service.start_all()
    job = service.submit(rocket, num_inference_steps=100, labels={"secret": "name"})
    await_step(service, job["id"])
    assert service.request("DELETE", f"/v1/jobs/{job['id']}").status == 204
    assert service.request("GET", f"/v1/jobs/{job['id']}").status == 404

    def erased() -> bool:
        with sessions() as session:
            row = session.get_one(Job, parse_id("job", job["id"]))
            return row.erased_at is not None and row.labels == {} and row.input_id is None and row.image_name is None

    eventually(erased)
    eventually(lambda: list(store.list_keys("")) == [])


def test_a_finished_result_waits_while_the_store_is_down(
    service: Service, rocket: bytes, sessions, settings: Settings
) -> None:
    service.start_all()
    job = service.submit(rocket, num_inference_steps=60)
    await_step(service, job["id"])
    objects = Path(settings.object_store)
    objects.rename(objects.with_name("away"))
    objects.write_text("in the way")
    eventually(lambda: b"waits for the object store" in service.processes[-1].log.read_bytes())
    objects.unlink()
    objects.with_name("away").rename(objects)
    service.await_status(job["id"], "succeeded")
    assert outcomes(sessions, job["id"]) == ["succeeded"]  # not generated again


def test_nothing_is_claimed_while_the_store_is_down(service: Service, rocket: bytes, sessions, settings) -> None:
    service.start_all()
    objects = Path(settings.object_store)
    job = service.submit(rocket, num_inference_steps=2)
    service.await_status(job["id"], "succeeded")
    second = service.submit(rocket, num_inference_steps=2)
    service.await_status(second["id"], "succeeded")
    service.processes[-1].signal(signal.SIGSTOP)
    third = service.submit(rocket, num_inference_steps=2)
    objects.rename(objects.with_name("away"))
    objects.write_text("in the way")
    service.processes[-1].signal(signal.SIGCONT)
    eventually(lambda: b"nothing claimed" in service.processes[-1].log.read_bytes())
    assert outcomes(sessions, third["id"]) == []
    objects.unlink()
    objects.with_name("away").rename(objects)
    service.await_status(third["id"], "succeeded")


def test_an_input_that_is_gone_fails_the_job_with_a_clear_error(service: Service, rocket: bytes, store) -> None:
    service.start_api()
    job = service.submit(rocket)
    for key in list(store.list_keys("inputs/")):
        store.delete(key)
    service.start_worker()
    service.start_maintainer()
    failed = service.await_status(job["id"], "failed")
    assert failed["error"]["code"] == "undecodable_image"
    assert "no longer in the object store" in failed["error"]["message"]


def test_an_attempt_past_its_deadline_fails(service: Service, rocket: bytes) -> None:
    service.start_all(attempt_deadline_s=4)
    job = service.submit(rocket, num_inference_steps=100, num_frames=25)
    with_deadline = service.await_status(job["id"], "failed")
    assert with_deadline["error"]["code"] == "deadline_exceeded"


def test_a_stalled_attempt_gives_up_its_lease(service: Service, rocket: bytes, sessions) -> None:
    service.start_api()
    service.start_maintainer()
    stalling = service.start_worker(stall_limit_s=0.01)
    job = service.submit(rocket, num_inference_steps=60)
    eventually(lambda: b"no step for" in stalling.log.read_bytes())
    eventually(lambda: outcomes(sessions, job["id"])[:1] == ["lost"])


def test_jobs_survive_a_restart_of_everything(service: Service, rocket: bytes, sessions) -> None:
    service.start_all()
    jobs = [service.submit(rocket, num_inference_steps=20) for _ in range(3)]
    await_step(service, jobs[0]["id"])
    service.stop_all()
    service.start_all()
    for job in jobs:
        service.await_status(job["id"], "succeeded", within_s=60)


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"model": "nothing"}, ExitCode.CONFIG, "unknown model 'nothing'"),
        ({"model": "local=/no/such/directory"}, ExitCode.MODEL_UNAVAILABLE, "no directory /no/such/directory"),
        ({"device": "cuda:7"}, ExitCode.DEVICE_UNAVAILABLE, "cuda:7"),
        ({"lease_s": "soon"}, ExitCode.CONFIG, "ANIMATIC_LEASE_S"),
    ],
)
def test_a_worker_that_cannot_start_says_why_in_one_sentence_and_ends(
    service: Service, changes: dict[str, str], code: ExitCode, message: str
) -> None:
    worker = service.start("worker", **{"model": "tiny", **changes})
    assert worker.popen.wait(60) == code
    lines = worker.log.read_text().strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert message in lines[-1]
    assert "Traceback" not in worker.log.read_text()


def test_a_checkpoint_that_fails_to_load_in_the_child_ends_the_worker(service: Service, tmp_path: Path) -> None:
    """What the checks without torch let pass must not make the pool respawn its child for ever."""
    checkpoint = Path(shutil.copytree(TINY, tmp_path / "checkpoint"))
    config = checkpoint / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"layers_per_block": 2}))
    worker = service.start("worker", model=f"broken={checkpoint}")
    assert worker.popen.wait(90) == ExitCode.MODEL_INVALID
    assert worker.log.read_text().strip().splitlines()[-1].startswith("error: ")


def test_workers_say_that_they_are_here(service: Service, sessions) -> None:
    service.start_api()
    service.start_worker()
    eventually(lambda: service.request("GET", "/v1/models/double").json()["workers"] == 1)
    with sessions.begin() as session:
        worker = session.scalars(select(Worker)).one()
        assert (worker.model, worker.ready) == ("double", True)
        session.execute(update(Worker).values(ready=False))
    eventually(lambda: service.request("GET", "/v1/models/double").json()["workers"] == 1)  # it says so again
    assert os.path.exists(f"/proc/{worker.pid}")


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary directory of processes that are started from now on; its path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="left-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def test_what_killed_processes_left_on_the_disk_is_removed_by_the_next_ones(
    service: Service, rocket: bytes, temporary: Path
) -> None:
    def folders() -> set[Path]:
        return set(temporary.glob("animatic-scratch-*"))

    service.start_all()
    worker = service.processes[-1]
    job = service.submit(rocket, num_inference_steps=100)
    await_step(service, job["id"])
    (attempt,) = temporary.glob("animatic-scratch-attempt-*")
    worker.pool_child().kill()
    eventually(lambda: not attempt.exists(), within_s=60)  # another child has started

    service.stop_all()
    left = folders()
    assert {path.name.split("-")[2] for path in left} >= {"metrics", "worker"}
    service.start_worker()
    assert not left & folders()
