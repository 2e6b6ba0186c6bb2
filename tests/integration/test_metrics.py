"""What /metrics says of faults, from real rows and a real Redis; every alert speaks of a metric that there is."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from photos import data_uri, plain
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, select, update
from support import PUBLIC_URL, WORKER_ID

from shared.database import Sessions, db_now
from shared.doorbell import Doorbell
from shared.jobs.claim import Claim
from shared.jobs.lease import note_stale
from shared.jobs.reap import reap_lost_job
from shared.settings import Settings
from shared.tables import Attempt, Job, Worker
from worker.attempt import Services
from worker.double import DoublePipeline
from worker.generate import Generator

ROOT = Path(__file__).parent.parent.parent
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"


def read(client: Any) -> dict[tuple[str, ...], float]:
    """Values by name and labels' values."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def lose(sessions: Sessions, job_id: UUID) -> None:
    """Its lease runs out, and the reaper finds it."""
    with sessions.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_expires_at=db_now() - timedelta(seconds=1)))
        assert reap_lost_job(session, job_id, lease_s=30, max_losses=3, public_url=PUBLIC_URL) is not None


def test_a_queue_without_rings_is_a_deficit_until_it_is_rung_for(
    client: Any, submit: Callable[..., UUID], settings: Settings
) -> None:
    submit()
    submit()
    found = read(client)
    assert found["animatic_doorbell_deficit", "tiny"] == 2
    assert found["animatic_redis_up",] == 1
    doorbell = Doorbell(settings)
    for _ in range(3):
        doorbell.ring("generate.tiny", "x")
    doorbell.close()
    assert read(client)["animatic_doorbell_deficit", "tiny"] == 0


def test_a_redis_that_is_away_is_said_and_hides_no_other_metric(
    make_client: Callable[..., Any], submit: Callable[..., UUID]
) -> None:
    submit()
    found = read(make_client(redis_url="redis://127.0.0.1:1/0"))
    assert found["animatic_redis_up",] == 0
    assert not [name for name, *_ in found if name == "animatic_doorbell_deficit"]
    assert found["animatic_jobs_claimable", "tiny"] == 1


def test_the_oldest_queued_job_counts_although_it_cannot_be_claimed_yet(
    client: Any, sessions: Sessions, submit: Callable[..., UUID]
) -> None:
    job_id = submit()
    with sessions.begin() as session:
        session.execute(
            update(Job)
            .where(Job.id == job_id)
            .values(created_at=db_now() - timedelta(hours=1), run_after=db_now() + timedelta(hours=1))
        )
    found = read(client)
    assert found["animatic_oldest_queued_seconds", "tiny"] >= 3600
    assert ("animatic_oldest_claimable_seconds", "tiny") not in found


def test_a_lease_that_ran_out_is_counted_and_a_worker_that_comes_back_with_it_too(
    client: Any, sessions: Sessions, submit: Callable[..., UUID], claim: Callable[..., Claim | None]
) -> None:
    job_id = submit()
    found = read(client)
    assert (found["animatic_lease_expiries",], found["animatic_stale_finishes",]) == (0, 0)
    stale = claim()
    assert stale is not None
    with sessions.begin() as session:
        note_stale(session, stale)  # not lost yet: nothing to be said
    lose(sessions, job_id)
    found = read(client)
    assert (found["animatic_lease_expiries",], found["animatic_stale_finishes",]) == (1, 0)
    with sessions.begin() as session:
        note_stale(session, stale)
        note_stale(session, stale)
    assert read(client)["animatic_stale_finishes",] == 1


def test_a_worker_says_how_long_its_device_was_busy(client: Any, sessions: Sessions) -> None:
    with sessions.begin() as session:
        session.add(Worker(id=WORKER_ID, hostname="gpu-1", pid=7, model="tiny", ready=True, busy_s=12.5))
    assert read(client)["animatic_device_busy_seconds_total", "tiny", "gpu-1:7"] == 12.5


@pytest.mark.parametrize("is_image_there", [True, False], ids=["succeeded", "failed"])
def test_a_worker_that_ends_an_attempt_after_it_was_lost_is_refused_and_leaves_a_record(
    engine: Engine,
    sessions: Sessions,
    settings: Settings,
    store: Any,
    client: Any,
    rocket: bytes,
    is_image_there: bool,
) -> None:
    form = {"model": "double", "num_inference_steps": "1", "image": (io.BytesIO(rocket), "a.jpg")}
    assert client.post("/v1/jobs", data=form).status_code == 202
    with sessions() as session:
        job_id = session.scalars(select(Job.id)).one()
    if not is_image_there:
        for key in store.list_keys("inputs/"):
            store.delete(key)

    class Thief:
        """A store through whose every call the job is lost: the attempt goes on without knowing."""

        def __getattr__(self, name: str) -> Any:
            with sessions() as session:
                is_running = session.get_one(Job, job_id).status == "running"
            if is_running:
                lose(sessions, job_id)
            return getattr(store, name)

    # No heartbeat for so long that only the fence can tell.
    quiet = settings.model_copy(update={"heartbeat_s": 50, "lease_s": 150, "overlap": False})
    services = Services(settings=quiet, sessions=sessions, store=Thief())
    assert Generator(services, engine, DoublePipeline(), model="double", worker_id=WORKER_ID).run_next()
    with sessions() as session:
        (attempt,) = session.scalars(select(Attempt)).all()
        assert session.get_one(Job, job_id).status == "queued"
    assert attempt.outcome == "lost"
    assert attempt.stale_at is not None
    assert read(client)["animatic_stale_finishes",] == 1


def test_experiments_that_have_not_finished_are_counted_with_what_of_them_waits(
    client: Any, submit: Callable[..., UUID]
) -> None:
    def sweep(*buckets: int) -> str:
        body = {"name": "s", "model": "tiny", "images": [{"image_url": data_uri(plain())}]}
        answer = client.post("/v1/experiments", json={**body, "grid": {"motion_bucket_id": list(buckets)}})
        assert answer.status_code == 202, answer.json
        return f"/v1/experiments/{answer.json['id']}"

    submit()  # by itself: no cell
    sweep(1, 2, 3)
    paused = sweep(4, 5)
    assert client.post(f"{paused}/pause").status_code == 200
    found = read(client)
    assert found["animatic_cells_waiting", "tiny", "running"] == 3
    assert found["animatic_cells_waiting", "tiny", "paused"] == 2
    assert found["animatic_experiments", "tiny", "running"] == found["animatic_experiments", "tiny", "paused"] == 1
    assert 0 <= found["animatic_oldest_experiment_seconds", "tiny", "running"] < 60
    # Jobs that are held count as queued, too; they could not start now.
    assert found["animatic_jobs", "tiny", "queued"] == 6
    assert found["animatic_jobs_claimable", "tiny"] == 4
    assert client.post(f"{paused}/cancel").status_code == 200
    found = read(client)
    assert ("animatic_cells_waiting", "tiny", "paused") not in found
    assert ("animatic_experiments", "tiny", "paused") not in found


def test_every_alert_speaks_of_metrics_that_there_are_and_stands_in_the_handbook(client: Any) -> None:
    names = {family.name for family in text_string_to_metric_families(client.get("/metrics").text)}
    handbook = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (group,) = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    assert group["rules"]
    for rule in group["rules"]:
        used = set(re.findall(r"animatic_\w+", rule["expr"]))
        assert used, rule
        assert used <= names, rule["alert"]
        assert f"`{rule['alert']}`" in handbook
    for name in names:
        if name.startswith("animatic_") and not name.startswith("animatic_http"):
            assert f"`{name}`" in handbook or f"`{name}_total`" in handbook
