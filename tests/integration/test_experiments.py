"""Experiments: the whole cross product or nothing, each end counted, one message when all have ended."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from experiment_audit import check_experiments
from photos import data_uri, plain
from sqlalchemy import delete, func, select, text, update
from support import PUBLIC_URL as URL
from support import WORKER_ID

from api.auth import create_key, ensure_tenant
from shared.database import Sessions
from shared.errors import ConflictError
from shared.experiments.grid import cell_id
from shared.experiments.steer import cancel_experiment, pause_experiment, resume_experiment, retry_experiment
from shared.ids import new_id, parse_id, show_id
from shared.jobs.claim import Claim, claimable
from shared.jobs.end import end_job
from shared.jobs.reap import find_jobs, too_long_in_queue
from shared.jobs.requeue import requeue_job
from shared.jobs.stop import request_deletion
from shared.objects import ObjectStore
from shared.quotas import Quotas
from shared.states import AttemptOutcome, JobStatus
from shared.tables import Experiment, ExperimentCell, Input, Job, WebhookDelivery, Worker
from worker.maintenance.erase import erase_deleted_jobs

FILE = {"key": "k", "size_bytes": 1, "sha256": "0" * 64, "media_type": "video/mp4"}
RESULT = {"video": FILE, "frames": [], "manifest": FILE, "num_frames": 14, "width": 256, "height": 128}
RESULT |= {"duration_s": 2.0, "made_with": {"revision": "1", "engine": "stock", "decode_chunk_size": 14}}


def photo(colour: str = "red") -> str:
    return data_uri(plain(colour))


def body(**changes: Any) -> dict[str, Any]:
    return {
        "name": "sweep",
        "model": "tiny",
        "images": [{"image_url": photo("red"), "name": "red"}, {"image_url": photo("blue")}],
        "grid": {"noise_aug_strength": [0.1, 0.2], "motion_bucket_id": [120, 180, 240]},
        "base": {"seed": 42},
        **changes,
    }


def submit(client: Any, *, key: str | None = None, **changes: Any) -> Any:
    # Flask's client would sort the keys, and the order of the axes is theirs.
    text = json.dumps(body(**changes))
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/v1/experiments", data=text, content_type="application/json", headers=headers)


def made(client: Any, **changes: Any) -> dict[str, Any]:
    answer = submit(client, **changes)
    assert answer.status_code == 202, answer.json
    return answer.json


def read(client: Any, experiment: dict[str, Any]) -> dict[str, Any]:
    return client.get(f"/v1/experiments/{experiment['id']}").json


def cells(client: Any, experiment: dict[str, Any], **query: Any) -> list[dict[str, Any]]:
    return client.get(f"/v1/experiments/{experiment['id']}/cells", query_string=query).json["data"]


def steer(client: Any, experiment: dict[str, Any], what: str) -> Any:
    return client.post(f"/v1/experiments/{experiment['id']}/{what}")


@pytest.fixture
def end(sessions: Sessions) -> Callable[..., None]:
    def end(claim: Claim, status: JobStatus = JobStatus.SUCCEEDED) -> None:
        result = RESULT if status is JobStatus.SUCCEEDED else None
        code = "invalid_output" if status is JobStatus.FAILED else None
        with sessions.begin() as session:
            job = end_job(session, claim.holds(), status, public_url=URL, reason=status, result=result, error_code=code)
        assert job is not None

    return end


def rows(sessions: Sessions, table: Any) -> int:
    with sessions() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_every_image_gets_every_combination_of_values_in_order(client: Any) -> None:
    answer = submit(client, labels={"shot": "1"})
    experiment = answer.json
    assert (answer.status_code, answer.headers["Location"]) == (202, experiment["links"]["self"])
    assert (experiment["status"], experiment["counts"]["total"], experiment["progress"]) == ("running", 12, 0)
    assert [(image["index"], image["name"]) for image in experiment["images"]] == [(0, "red"), (1, "image_1")]
    assert list(experiment["grid"]) == ["noise_aug_strength", "motion_bucket_id"]
    assert client.get(f"/v1/experiments/{experiment['id']}").json == experiment
    table = cells(client, experiment)
    assert [cell["index"] for cell in table] == list(range(12))
    assert [cell["image_index"] for cell in table] == [0] * 6 + [1] * 6
    assert [tuple(cell["grid_values"].values()) for cell in table[:4]] == [
        (0.1, 120),
        (0.1, 180),
        (0.1, 240),
        (0.2, 120),
    ]
    for cell in table:
        job = cell["job"]
        assert {name: job["params"][name] for name in cell["grid_values"]} == cell["grid_values"]
        assert (job["params"]["seed"], job["labels"], job["experiment_id"]) == (42, {"shot": "1"}, experiment["id"])
        assert job["image_name"] == ("red", "image_1")[cell["image_index"]]
        assert list(job["grid_values"].items()) == list(cell["grid_values"].items())
        assert cell["id"] == show_id("cell", cell_id(parse_id("exp", experiment["id"]), cell["index"]))
    assert len({cell["job"]["input_id"] for cell in table}) == 2  # each image is stored once


def test_cells_are_paged_and_filtered(client: Any, claim: Any) -> None:
    experiment = made(client)
    first = client.get(f"/v1/experiments/{experiment['id']}/cells?limit=5").json
    rest = client.get(f"/v1/experiments/{experiment['id']}/cells?after={first['last_id']}").json
    assert [cell["index"] for cell in first["data"] + rest["data"]] == list(range(12))
    assert (first["has_more"], rest["has_more"]) == (True, False)
    back = cells(client, experiment, order="desc", limit=2, after=first["last_id"])
    assert [cell["index"] for cell in back] == [3, 2]
    claim()
    assert [cell["index"] for cell in cells(client, experiment, status="running")] == [0]


BAD = [
    ({"grid": {}}, "grid", "grid must name at least one parameter"),
    ({"grid": {"fps": []}}, "grid.fps", "at least 1 item"),
    ({"grid": {"fps": [7, 8, 7.0]}}, "grid.fps", "values of an axis must differ, got 7 twice"),
    ({"grid": {"speed": [1]}}, "grid.speed", "grid.speed is not a known field"),
    ({"grid": {"motion_bucket_id": [120, 600]}}, "grid.motion_bucket_id.1", "less than or equal to 511, got 600"),
    ({"base": {"fps": 0}}, "base.fps", "greater than or equal to 1, got 0"),
    ({"base": {"seed": 1, "motion_bucket_id": 1}}, "base.motion_bucket_id", "stands in grid and in base"),
    (
        {"grid": {"width": [256, 1024], "height": [128, 512]}},
        "grid",
        "the cell of width 1024, height 512 is not possible: width × height must be at most 262144 for tiny",
    ),
    (
        {"grid": {"min_guidance_scale": [1, 3], "max_guidance_scale": [4, 2]}},
        "grid",
        "the cell of min_guidance_scale 3.0, max_guidance_scale 2.0 is not possible: min_guidance_scale must not",
    ),
    ({"images": []}, "images", "at least 1 item"),
    ({"images": [{"image_url": photo()}, {}]}, "images.1", "just one of image_url and input_id, got none"),
    ({"images": [{"image_url": photo()}, {"image_url": photo()}]}, "images.1", "images.1 is the same as images.0"),
    (
        {"images": [{"image_url": photo()}, {"image_url": photo("blue"), "name": "image_0"}]},
        "images.1.name",
        "names of images must differ, got 'image_0' twice",
    ),
    (
        {"images": [{"image_url": photo()}, {"image_url": "data:image/png;base64,AAAA"}, {"image_url": photo("blue")}]},
        "images.1.image_url",
        "images.1.image_url must be a PNG, JPEG",
    ),
    ({"model": "svd-9"}, "model", "must be one of"),
    ({"webhook_url": "http://10.0.0.1/"}, "webhook_url", "10.0.0.1"),
    ({"grid": {"seed": list(range(501))}, "base": {}}, "grid", "at most 1000 cells, got 2 images × 501 seed = 1002"),
    ({"wandb": {"project": "a/b"}}, "wandb.project", "should match pattern"),
]


def test_what_is_wrong_is_named_and_nothing_is_left(client: Any, sessions: Sessions, store: ObjectStore) -> None:
    for changes, field, message in BAD:
        answer = submit(client, **changes)
        assert (answer.status_code, answer.json["code"]) == (422, "invalid_input"), changes
        assert message in answer.json["detail"]
        assert field in [error["field"] for error in answer.json["errors"]]
    assert [rows(sessions, table) for table in (Experiment, ExperimentCell, Job, Input)] == [0] * 4
    assert list(store.list_keys("")) == []


def test_the_webhook_comes_once_when_all_cells_have_ended(
    client: Any, sessions: Sessions, claim: Any, end: Any
) -> None:
    experiment = made(client, grid={"fps": [7, 8]}, webhook_url="https://example.org/hook")
    for status in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.SUCCEEDED):
        end(claim(), status)
        assert rows(sessions, WebhookDelivery) == 0
    assert read(client, experiment)["progress"] == 0.75
    assert read(client, experiment)["eta_s"] is not None
    end(claim())
    finished = read(client, experiment)
    assert (finished["status"], finished["progress"], finished["eta_s"]) == ("finished", 1, None)
    assert finished["counts"] == {"total": 4, "queued": 0, "running": 0, "succeeded": 3, "failed": 1, "canceled": 0}
    [delivery] = client.get(f"/v1/experiments/{experiment['id']}/deliveries").json["data"]
    assert (delivery["event_type"], delivery["experiment_id"]) == ("experiment.finished", experiment["id"])
    with sessions() as session:
        message = json.loads(session.scalars(select(WebhookDelivery.body)).one())
    assert message["type"] == "experiment.finished"
    assert {**message["data"], "links": None} == {**finished, "links": None}


def test_two_last_cells_that_end_at_once_finish_it_once(client: Any, sessions: Sessions, claim: Any) -> None:
    """Each of two transactions holds its job before either ends it: neither sees the other's end."""
    both_are_there = threading.Barrier(2)

    def finish(taken: Claim) -> None:
        with sessions.begin() as session:
            session.execute(select(Job.id).where(taken.holds()).with_for_update()).one()
            both_are_there.wait()
            assert end_job(session, taken.holds(), JobStatus.CANCELED, public_url=URL, reason="canceled")

    for _ in range(5):
        made(client, images=[{"image_url": photo()}], grid={"fps": [7, 8]}, webhook_url="https://example.org/hook")
        threads = [threading.Thread(target=finish, args=(taken,)) for taken in (claim(), claim())]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with sessions() as session:
        assert session.scalars(select(WebhookDelivery.round)).all() == [1] * 5
        assert session.scalar(select(func.count()).where(Experiment.finished_at.is_not(None))) == 5


def test_a_repetition_under_one_key_gets_the_first_ones_experiment(client: Any, sessions: Sessions) -> None:
    first, second = submit(client, key="order-1"), submit(client, key="order-1")
    assert (second.status_code, second.headers["Idempotent-Replayed"]) == (202, "true")
    assert first.json == second.json
    assert rows(sessions, Job) == 12
    turned = {"motion_bucket_id": [120, 180, 240], "noise_aug_strength": [0.1, 0.2]}
    for changes in ({"name": "other"}, {"grid": turned}, {"images": [{"image_url": photo()}]}):
        assert submit(client, key="order-1", **changes).json["code"] == "invalid_input"
    job = client.post("/v1/jobs", json={"image_url": photo()}, headers={"Idempotency-Key": "order-1"})
    assert job.json["code"] == "invalid_input"


def test_without_a_seed_all_cells_share_the_one_that_is_drawn(client: Any) -> None:
    experiment = made(client, base={})
    seeds = {cell["job"]["params"]["seed"] for cell in cells(client, experiment)}
    assert seeds == {experiment["base"]["seed"]}


def test_an_experiment_keeps_to_the_quotas_of_jobs(make_client: Any, sessions: Sessions) -> None:
    client = make_client(queued_jobs_max=15)
    made(client)
    answer = submit(client)
    assert (answer.status_code, answer.json["code"]) == (429, "rate_limited")
    assert "at most 15 jobs may wait at once, 12 do and 12 more would" in answer.json["detail"]
    poor = make_client(storage_bytes_max=100)
    assert submit(poor).json["code"] == "quota_exceeded"
    limited = make_client(rate_limit_per_minute=3)
    assert submit(limited, images=[{"image_url": photo(c)} for c in ("red", "lime", "blue", "teal")]).status_code == 429
    assert (rows(sessions, Experiment), rows(sessions, Input)) == (1, 2)


def test_an_experiments_images_have_one_time_limit_together(make_client: Any, store: ObjectStore) -> None:
    answer = submit(make_client(upload_timeout_s=1e-6))
    assert (answer.status_code, answer.json["errors"][0]["field"]) == (422, "images")
    assert "images must be there within 1e-06 s, 1 of 2 were" in answer.json["detail"]
    assert list(store.list_keys("")) == []


def test_a_thousand_cells_are_accepted_and_read_fast(client: Any, sessions: Sessions, record_property: Any) -> None:
    started = time.perf_counter()
    experiment = made(client, images=[{"image_url": photo()}], grid={"seed": list(range(1000))}, base={})
    accepted_s = time.perf_counter() - started
    with sessions() as session:
        session.execute(text("ANALYZE jobs"))
        session.execute(text("ANALYZE experiment_cells"))
        session.commit()
    started = time.perf_counter()
    for _ in range(5):
        assert read(client, experiment)["counts"]["queued"] == 1000
    read_s = (time.perf_counter() - started) / 5
    record_property("accepted_s", accepted_s)
    print(f"\n1,000 cells: accepted in {accepted_s:.2f} s, read in {1000 * read_s:.1f} ms")
    assert accepted_s < 5
    assert read_s < 0.2
    assert len(cells(client, experiment, limit=1000)) == 1000


def test_pause_holds_what_waits_also_what_comes_back_to_the_queue(
    client: Any, sessions: Sessions, claim: Any, end: Any
) -> None:
    experiment = made(client, grid={"fps": [7, 8]})
    running = claim()
    paused = steer(client, experiment, "pause").json
    assert (paused["status"], paused["counts"]["queued"], paused["counts"]["running"]) == ("paused", 3, 1)
    assert steer(client, experiment, "pause").json["status"] == "paused"
    with sessions.begin() as session:
        requeue_job(session, running.holds(), AttemptOutcome.RELEASED, public_url=URL, reason="released")
    assert claim() is None
    resumed = steer(client, experiment, "resume").json
    assert (resumed["status"], resumed["counts"]["queued"]) == ("running", 4)
    for _ in range(4):
        end(claim())
    assert read(client, experiment)["status"] == "finished"
    for what in ("pause", "resume"):
        assert steer(client, experiment, what).status_code == 409


def test_a_pause_does_not_count_as_time_in_the_queue(client: Any, sessions: Sessions) -> None:
    def expired(*, after_s: float) -> int:
        with sessions() as session:
            return len(find_jobs(session, too_long_in_queue(after_s)))

    experiment = made(client)
    with sessions.begin() as session:
        session.execute(update(Job).values(created_at=func.clock_timestamp() - timedelta(hours=1)))
    assert expired(after_s=600) == 6 * 2
    steer(client, experiment, "pause")
    assert expired(after_s=600) == 0
    steer(client, experiment, "resume")
    assert (expired(after_s=600), expired(after_s=0)) == (0, 12)


def test_a_resumed_job_waits_out_its_pause_before_the_next_try(client: Any, sessions: Sessions) -> None:
    experiment = made(client)
    steer(client, experiment, "pause")
    with sessions.begin() as session:
        session.execute(update(Job).values(run_after=func.clock_timestamp() + timedelta(hours=1)))
    steer(client, experiment, "resume")
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Job).where(claimable())) == 0


def test_cancel_ends_what_waits_and_flags_what_runs(client: Any, sessions: Sessions, claim: Any, end: Any) -> None:
    experiment = made(client, webhook_url="https://example.org/hook")
    end(claim())
    running = claim()
    canceled = steer(client, experiment, "cancel").json
    assert (canceled["status"], canceled["counts"]["canceled"], canceled["counts"]["running"]) == ("running", 10, 1)
    with sessions() as session:
        assert session.get_one(Job, running.job_id).cancel_requested_at is not None
    end(running, JobStatus.CANCELED)
    assert read(client, experiment)["status"] == "finished"
    assert steer(client, experiment, "cancel").status_code == 200
    assert rows(sessions, WebhookDelivery) == 1


def test_retry_makes_new_jobs_for_failed_cells_only_and_finishes_again(
    client: Any, sessions: Sessions, claim: Any, end: Any
) -> None:
    experiment = made(client, grid={"fps": [7, 8]}, webhook_url="https://example.org/hook")
    for status in (JobStatus.FAILED, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED):
        end(claim(), status)
    before = cells(client, experiment)
    again = steer(client, experiment, "retry").json
    assert (again["status"], again["counts"]["queued"], again["finished_at"]) == ("running", 2, None)
    assert steer(client, experiment, "retry").json["counts"] == again["counts"]  # nothing has failed since
    after = cells(client, experiment)
    assert [cell["tries"] for cell in after] == [2, 1, 2, 1]
    assert [cell["id"] for cell in after] == [cell["id"] for cell in before]
    for old, new in zip(before, after, strict=True):
        assert (old["job"]["id"] == new["job"]["id"]) == (old["status"] != "failed")
        assert old["job"]["params"] == new["job"]["params"]
    end(claim())
    end(claim())
    assert read(client, experiment)["counts"] == {**again["counts"], "queued": 0, "succeeded": 3}
    deliveries = client.get(f"/v1/experiments/{experiment['id']}/deliveries").json["data"]
    assert len({delivery["id"] for delivery in deliveries}) == 2


def test_a_cell_whose_job_is_deleted_stays_and_says_so(client: Any, claim: Any, end: Any) -> None:
    experiment = made(client, grid={"fps": [7, 8]}, images=[{"image_url": photo()}])
    first, second = cells(client, experiment)
    end(claim(), JobStatus.FAILED)
    assert client.delete(f"/v1/jobs/{first['job']['id']}").status_code == 204
    assert client.delete(f"/v1/jobs/{second['job']['id']}").status_code == 204
    shown = read(client, experiment)
    assert (shown["status"], shown["counts"]["failed"], shown["counts"]["canceled"]) == ("finished", 1, 1)
    assert [cell["job"] for cell in cells(client, experiment)] == [None, None]
    assert steer(client, experiment, "retry").json["status"] == "finished"


def test_deleting_a_finished_experiment_deletes_its_jobs_and_leaves_no_trace(
    client: Any, sessions: Sessions, store: ObjectStore
) -> None:
    experiment, other = (made(client, webhook_url="https://example.org/hook") for _ in range(2))
    at = f"/v1/experiments/{experiment['id']}"
    assert client.delete(at).status_code == 409
    job = cells(client, experiment)[0]["job"]["id"]
    steer(client, experiment, "cancel")
    assert client.delete(at).status_code == 204
    for path in (at, f"/v1/jobs/{job}"):
        assert client.get(path).status_code == 404
    assert client.delete(at).status_code == 404
    assert erase_deleted_jobs(sessions, store) == 12
    left = [rows(sessions, table) for table in (Experiment, ExperimentCell, WebhookDelivery)]
    assert left == [1, 12, 0]
    assert len(list(store.list_keys("inputs/"))) == 2
    assert read(client, other)["counts"]["queued"] == 12


def announce(sessions: Sessions, *, revision: str, engine: str) -> None:
    """The only worker of `tiny` that is here runs this."""
    worker = {"id": WORKER_ID, "hostname": "host", "pid": 1, "model": "tiny", "ready": True}
    with sessions.begin() as session:
        session.execute(delete(Worker))
        session.add(Worker(**worker, revision=revision, engine=engine))


def test_reuse_takes_results_that_would_come_out_the_same_and_no_others(
    client: Any, sessions: Sessions, claim: Any, end: Any
) -> None:
    announce(sessions, revision="1", engine="stock")
    asked = {"images": [{"image_url": photo()}], "grid": {"fps": [7, 8, 9]}, "webhook_url": "https://example.org/hook"}
    first = made(client, **asked)
    for _ in range(3):
        end(claim())
    jobs = [cell["job"]["id"] for cell in cells(client, first)]
    # Everything is there: it has finished in the answer, with its one message.
    again = made(client, **asked, reuse=True)
    assert (again["status"], again["counts"]["succeeded"], again["progress"]) == ("finished", 3, 1)
    assert [(cell["job"]["id"], cell["reused"], cell["tries"]) for cell in cells(client, again)] == [
        (job, True, 0) for job in jobs
    ]
    assert len(client.get(f"/v1/experiments/{again['id']}/deliveries").json["data"]) == 1
    assert claim() is None

    def reused(**changes: Any) -> list[bool]:
        experiment = made(client, **{**asked, "reuse": True, **changes})
        shown = [cell["reused"] for cell in cells(client, experiment)]
        steer(client, experiment, "cancel")
        return shown

    assert reused(grid={"fps": [8, 10]}) == [True, False]
    assert reused(reuse=False) == [False] * 3
    assert reused(base={"seed": 43}) == [False] * 3
    assert reused(images=[{"image_url": photo("blue")}]) == [False] * 3
    assert reused(base={}) == [False] * 3
    assert "give a seed" in made(client, **{**asked, "reuse": True, "base": {}})["warnings"][0]
    for revision, engine in (("2", "stock"), ("1", "fast")):
        announce(sessions, revision=revision, engine=engine)
        assert reused() == [False] * 3
    announce(sessions, revision="1", engine="stock")
    with sessions.begin() as session:
        _, theirs = create_key(session, ensure_tenant(session, "theirs"), "k")
    other = client.post(
        "/v1/experiments",
        data=json.dumps(body(**asked, reuse=True)),
        content_type="application/json",
        headers={"Authorization": f"Bearer {theirs}"},
    )
    assert other.json["counts"]["queued"] == 3
    # What is deleted, expired, or was decoded otherwise since memory ran out, is no result any more.
    assert client.delete(f"/v1/jobs/{jobs[0]}").status_code == 204
    with sessions.begin() as session:
        expired = Job.id == parse_id("job", jobs[1])
        session.execute(update(Job).where(expired).values(expired_at=func.clock_timestamp()))
        smaller = {**RESULT, "made_with": {**RESULT["made_with"], "decode_chunk_size": 7}}
        session.execute(update(Job).where(Job.id == parse_id("job", jobs[2])).values(result=smaller))
    assert reused() == [False] * 3
    # A cell whose reused job is deleted stays, and says so.
    assert [cell["job"] is None for cell in cells(client, again)] == [True, False, False]
    assert read(client, again)["counts"]["succeeded"] == 3


def test_whatever_is_done_at_once_no_cell_is_lost_and_each_finishing_has_one_message(
    client: Any, sessions: Sessions, claim: Any, end: Any
) -> None:
    """Threads pause, resume, cancel, retry, delete, claim, end and give back, all at once; then the audit looks."""
    experiments = [made(client, webhook_url="https://example.org/hook") for _ in range(3)]
    done: Counter[str] = Counter()
    problems: list[BaseException] = []

    def owned(experiment: dict[str, Any]) -> Any:
        return Experiment.id == parse_id("exp", experiment["id"])

    def steer_at_random(dice: random.Random) -> None:
        chosen = owned(dice.choice(experiments))
        what = dice.choice(["pause", *["resume"] * 3, *["retry"] * 4, "cancel", "delete"])
        with suppress(ConflictError), sessions.begin() as session:
            match what:
                case "pause":
                    pause_experiment(session, chosen)
                case "resume":
                    resume_experiment(session, chosen)
                case "retry":
                    done["retried"] += retry_experiment(session, chosen, Quotas(10_000))[1]
                case "cancel" if dice.random() < 0.1:
                    cancel_experiment(session, chosen, public_url=URL)
                case "delete" if dice.random() < 0.1:
                    job = session.scalars(select(Job.id).order_by(func.random()).limit(1)).one()
                    request_deletion(session, Job.id == job, public_url=URL)

    def work_at_random(dice: random.Random) -> None:
        taken = claim(new_id())
        if taken is None:
            return
        with sessions.begin() as session:
            if dice.random() < 0.2:
                requeue_job(session, taken.holds(), AttemptOutcome.RELEASED, public_url=URL, reason="released")
                return
            canceled = session.get_one(Job, taken.job_id).cancel_requested_at is not None
            status = JobStatus.CANCELED if canceled else dice.choice([JobStatus.SUCCEEDED, *[JobStatus.FAILED] * 7])
            result = RESULT if status is JobStatus.SUCCEEDED else None
            assert end_job(session, taken.holds(), status, public_url=URL, reason=status, result=result)
            done[status] += 1

    def repeat(deed: Callable[[random.Random], None], seed: int) -> None:
        dice = random.Random(seed)
        try:
            for _ in range(50):
                deed(dice)
        except BaseException as problem:
            problems.append(problem)

    threads = [
        threading.Thread(target=repeat, args=(deed, seed))
        for seed, deed in enumerate([steer_at_random] * 2 + [work_at_random] * 4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    for experiment in experiments:
        with suppress(ConflictError), sessions.begin() as session:
            resume_experiment(session, owned(experiment))
    while (left := claim(new_id())) is not None:
        end(left)
    assert min(done["retried"], done["failed"]) > 10
    accepted = {experiment["id"] for experiment in experiments}
    assert check_experiments(sessions, accepted, deliveries_ended=False) == []


def job_ids(sessions: Sessions, experiment: dict[str, Any]) -> set[UUID]:
    with sessions() as session:
        return set(session.scalars(select(Job.id).where(Job.experiment_id == parse_id("exp", experiment["id"]))))


def test_a_thousand_cells_starve_neither_the_tenants_own_jobs_nor_anothers(
    client: Any, sessions: Sessions, claim: Any
) -> None:
    big = made(client, images=[{"image_url": photo()}], grid={"seed": list(range(1000))}, base={})
    for _ in range(10):
        claim()
    small = made(client, images=[{"image_url": photo()}], grid={"seed": [1, 2]}, base={})
    own = [client.post("/v1/jobs", json={"image_url": photo(), "model": "tiny"}).json["id"] for _ in range(3)]
    assert big["counts"]["total"] == 1000
    order = [claim().job_id for _ in range(12)]
    big_jobs, small_jobs = job_ids(sessions, big), job_ids(sessions, small)
    kinds = ["own" if show_id("job", job) in own else "small" if job in small_jobs else "big" for job in order]
    assert all(job in big_jobs | small_jobs or show_id("job", job) in own for job in order)
    # One in two of the tenant's own until they are through, and one in three of the small experiment, at half speed.
    assert [kind for kind in kinds[:8] if kind != "big"].count("own") == 3
    assert kinds.count("small") == 2
    assert kinds[:2].count("own") == 1
