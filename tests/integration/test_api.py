"""The API against real Postgres and Redis: what it accepts, what it answers, and what it keeps."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import urllib3
from photos import data_uri, encode
from PIL import Image
from sqlalchemy import func, select
from support import BOOTSTRAP_KEY, Process, eventually

from api.auth import create_key, ensure_tenant
from shared.database import Sessions
from shared.tables import Input, Job, JobEvent


@pytest.fixture
def photo() -> bytes:
    return encode(Image.effect_mandelbrot((96, 64), (-2, -1, 1, 1), 50).convert("RGB"))


def submit(client: Any, image: bytes, *, key: str | None = None, **fields: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    data = {"model": "double", **fields, "image": (io.BytesIO(image), "photo.png")}
    return client.post("/v1/jobs", data=data, headers=headers)


def count(sessions: Sessions, table: Any) -> int:
    with sessions() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_an_accepted_job_is_durable_and_answers_with_its_location(client, photo, sessions) -> None:
    answer = submit(client, photo, motion_bucket_id=180, labels='{"shot": "1"}', priority=3)
    assert answer.status_code == 202
    job = answer.json
    assert answer.headers["Location"].endswith(f"/v1/jobs/{job['id']}")
    assert (job["status"], job["queue_position"], job["labels"], job["priority"]) == ("queued", 0, {"shot": "1"}, 3)
    assert job["params"]["motion_bucket_id"] == 180
    assert isinstance(job["params"]["seed"], int)
    assert client.get(f"/v1/jobs/{job['id']}").json == job
    assert count(sessions, JobEvent) == 1


def test_a_job_says_what_its_image_is_called(client, photo) -> None:
    assert submit(client, photo).json["image_name"] == "photo.png"
    assert submit(client, photo, image_name="the rocket").json["image_name"] == "the rocket"
    nameless = client.post("/v1/jobs", json={"image_url": data_uri(photo), "model": "double"}).json
    assert (nameless["image_name"], nameless["grid_values"]) == (None, None)
    again = {"input_id": nameless["input_id"], "image_name": "again", "model": "double"}
    assert client.post("/v1/jobs", json=again).json["image_name"] == "again"
    assert client.post("/v1/jobs", json={**again, "image_name": ""}).json["errors"][0]["field"] == "image_name"


def test_json_takes_a_data_uri_or_an_input_that_was_uploaded_before(client, photo) -> None:
    uri = data_uri(photo)
    first = client.post("/v1/jobs", json={"image_url": uri, "model": "double", "fps": 9})
    assert first.status_code == 202
    assert (first.json["params"]["fps"], first.json["params"]["playback_fps"]) == (9, 9)

    uploaded = client.post("/v1/inputs", data={"image": (io.BytesIO(photo), "photo.png")})
    assert uploaded.status_code == 201
    assert (uploaded.json["width"], uploaded.json["height"]) == (96, 64)
    assert client.get(f"/v1/inputs/{uploaded.json['id']}").json == uploaded.json
    jobs = [client.post("/v1/jobs", json={"input_id": uploaded.json["id"], "model": "double"}) for _ in range(2)]
    assert [job.json["input_id"] for job in jobs] == [uploaded.json["id"]] * 2


def test_unusual_but_legal_values_are_accepted_with_warnings(client, photo) -> None:
    job = submit(client, photo, motion_bucket_id=360, noise_aug_strength=0.9, width=320, num_frames=8, fps=2).json
    text = " ".join(job["warnings"])
    for part in ("motion_bucket_id 360", "noise_aug_strength 0.9", "320×", "num_frames 8", "fps 2"):
        assert part in text


BAD_FIELDS = [
    ({"model": "svd-9"}, "model", "must be one of double, tiny, svd, got 'svd-9'"),
    ({"width": 1000}, "width", "should be a multiple of 64, got 1000"),
    ({"width": 4096}, "width", "should be less than or equal to 2048, got 4096"),
    ({"model": "tiny", "width": 1024, "height": 1024}, "width", "must be at most"),
    ({"num_frames": 1}, "num_frames", "greater than or equal to 2, got 1"),
    ({"model": "tiny", "num_frames": 50}, "num_frames", "must be at most"),
    ({"motion_bucket_id": -1}, "motion_bucket_id", "greater than or equal to 0, got -1"),
    ({"motion_bucket_id": 512}, "motion_bucket_id", "less than or equal to 511"),
    ({"noise_aug_strength": 1.5}, "noise_aug_strength", "less than or equal to 1, got 1.5"),
    ({"num_inference_steps": 0}, "num_inference_steps", "greater than or equal to 1"),
    ({"seed": 2**53}, "seed", "less than or equal to 9007199254740991"),
    ({"resize_mode": "zoom"}, "resize_mode", "should be 'crop', 'pad' or 'stretch', got 'zoom'"),
    ({"frames_format": "gif"}, "frames_format", "should be 'none', 'png', 'jpeg' or 'webp'"),
    ({"priority": 1000}, "priority", "less than or equal to 100"),
    ({"labels": {"": "x"}}, "labels", "at least 1 character"),
    ({"labels": {"a": 1}}, "labels.a", "valid string, got 1"),
    ({"fps": 0}, "fps", "greater than or equal to 1"),
    (
        {"min_guidance_scale": 3, "max_guidance_scale": 1},
        "",
        "must not exceed max_guidance_scale (1), got 3",
    ),
    ({"decode_chunk_size": 0}, "decode_chunk_size", "greater than or equal to 1"),
    ({"motion": 3}, "motion", "motion is not a known field"),
    ({"width": "wide"}, "width", "valid integer, got 'wide'"),
    ({"num_frames": "14"}, "num_frames", "valid integer, got '14'"),
    ({"num_frames": True}, "num_frames", "valid integer"),
    ({"webhook_url": "ftp://example.org"}, "webhook_url", "http"),
    ({"webhook_url": "http://10.0.0.1/hook"}, "webhook_url", "10.0.0.1"),
    ({"webhook_url": "http://localhost/hook"}, "webhook_url", "localhost"),
    ({"image_url": "data:text/plain,hello"}, "image_url", "data:image/"),
    ({"image_url": "http://169.254.169.254/latest"}, "image_url", "169.254.169.254"),
    ({"input_id": "inp_00000000000000000000000000000000"}, "image", "just one of image, image_url or input_id"),
]


@pytest.mark.parametrize(("fields", "field", "message"), BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_a_bad_field_is_named_with_its_value_and_what_would_be_right(
    client, photo, sessions, store, fields: dict[str, Any], field: str, message: str
) -> None:
    uri = data_uri(photo)
    answer = client.post("/v1/jobs", json={"image_url": uri, "model": "double", **fields})
    assert answer.status_code == 422, answer.json
    assert answer.content_type == "application/problem+json"
    problem = answer.json
    assert (problem["code"], problem["status"]) == ("invalid_input", 422)
    assert message in problem["detail"]
    assert any(error["field"].startswith(field) for error in problem["errors"])
    assert (count(sessions, Job), count(sessions, Input), list(store.list_keys(""))) == (0, 0, [])


def bad_images() -> list[tuple[str, bytes, str]]:
    image = Image.effect_noise((128, 96), 60).convert("RGB")
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG")
    return [
        ("text", b"hello, I am not an image", "image"),
        ("empty", b"", "image"),
        ("truncated png", encode(image)[:-400], "truncated"),
        ("truncated jpeg", jpeg.getvalue()[:-2000], "truncated"),
        ("small", encode(Image.new("RGB", (128, 31))), "32"),
        ("huge", encode(Image.new("1", (30_001, 40))), "30"),
        ("many pixels", encode(Image.new("1", (10_000, 9_000))), "pixels"),
    ]


@pytest.mark.parametrize(("name", "data", "message"), bad_images(), ids=[name for name, _, _ in bad_images()])
def test_a_bad_image_is_refused_and_leaves_nothing(client, sessions, store, name, data, message) -> None:
    answer = submit(client, data)
    assert answer.status_code == 422, answer.json
    assert message in answer.json["detail"].lower()
    assert answer.json["errors"][0]["field"] == "image"
    assert (count(sessions, Job), count(sessions, Input), list(store.list_keys(""))) == (0, 0, [])


@pytest.mark.parametrize("mode", ["CMYK", "P", "I;16", "LA", "L", "RGBA", "1"])
def test_unusual_but_sound_images_are_accepted(client, mode: str) -> None:
    image = Image.effect_noise((96, 64), 60)
    file = io.BytesIO()
    image.convert(mode).save(file, "TIFF" if mode == "CMYK" else "PNG")
    assert submit(client, file.getvalue()).status_code == 202


def test_both_or_neither_image_is_refused(client, photo) -> None:
    both = submit(client, photo, image_url="https://example.org/a.png")
    neither = client.post("/v1/jobs", json={"model": "double"})
    assert (both.status_code, neither.status_code) == (422, 422)
    assert "image and image_url" in both.json["detail"]
    assert "got none" in neither.json["detail"]


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "malformed_request"),
        (b"[" * 4_000, "application/json", 400, "malformed_request"),
        (b"[" * 100_000, "application/json", 413, "payload_too_large"),
        (b"[]", "application/json", 422, "invalid_input"),
        (b"\xff\xfe", "application/json", 400, "malformed_request"),
        (b"x=1", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b"", "", 415, "unsupported_media_type"),
        (b"not multipart", "multipart/form-data", 422, "invalid_input"),
    ],
)
def test_a_body_that_is_not_what_it_says_is_a_problem(client, body, content_type, status, code) -> None:
    answer = client.post("/v1/jobs", data=body, content_type=content_type)
    assert (answer.status_code, answer.json["code"]) == (status, code)


def test_an_oversized_body_is_refused(make_client, photo) -> None:
    answer = submit(make_client(max_body_bytes=2000), photo + b"x" * 3000)
    assert (answer.status_code, answer.json["code"]) == (413, "payload_too_large")
    assert "at most 2000 bytes" in answer.json["detail"]


def test_form_mistakes_are_named(client, photo) -> None:
    file = lambda: (io.BytesIO(photo), "a.png")  # noqa: E731
    for data, message in [
        ({"image": "text"}, "image must be a file"),
        ({"image": [file(), file()]}, "send one file as image, got 2"),
        ({"picture": file()}, "picture is not a known file field"),
        ({"image": file(), "labels": "a=b"}, "labels must be a JSON object"),
        ({"image": file(), "fps": ["7", "8"]}, "fps must be given once"),
        ({"image": file(), "fps": "seven"}, "valid integer"),
    ]:
        answer = client.post("/v1/jobs", data=data, content_type="multipart/form-data")
        assert answer.status_code == 422
        assert message in answer.json["detail"], answer.json


NUL = "a\0b"


@pytest.mark.parametrize(
    ("method", "path", "options", "statuses"),
    [
        ("POST", "/v1/jobs", {"json": {"labels": {"a": NUL}}}, {422}),
        ("POST", "/v1/jobs", {"data": {"labels": '{"a": "x\\u0000"}'}}, {415, 422}),
        ("POST", "/v1/jobs", {"json": {"model": NUL}}, {422}),
        ("POST", "/v1/keys", {"json": {"name": NUL}}, {422}),
        ("POST", "/v1/keys", {"data": b'{"name": "\\ud800"}', "content_type": "application/json"}, {400, 422}),
        ("POST", "/v1/keys", {"data": b"[" * 100_000, "content_type": "application/json"}, {413}),
        ("POST", "/v1/keys", {"data": b"name=x"}, {400}),
        ("GET", "/v1/jobs?label=a=%00", {}, {422}),
        ("GET", "/v1/jobs?model=%00", {}, {422}),
        ("GET", "/v1/jobs?after=job_" + "0" * 32 + "%0A", {}, {422}),
        ("GET", "/v1/jobs/job_" + "0" * 32 + "%0A", {}, {404}),
        ("GET", "/files/x?signature=%C3%A9&expires=1&type=a", {}, {404}),
        ("GET", "/files/.signing-key?signature=a&expires=1&type=a", {}, {404}),
        ("POST", "/v1/jobs", {"data": {"labels": "[" * 4_000}, "content_type": "multipart/form-data"}, {422}),
        (
            "POST",
            "/v1/jobs",
            {"data": {"labels": '{"a": "\\ud800"}'}, "content_type": "multipart/form-data"},
            {422},
        ),
        ("POST", "/v1/jobs", {"json": {}, "headers": {"Idempotency-Key": "é"}}, {422}),
        ("BREW", "/v1/jobs", {}, {405}),
    ],
    ids=lambda value: str(value)[:30],
)
def test_odd_requests_are_problems_of_the_caller(
    client, photo, sessions, store, method, path, options, statuses
) -> None:
    if "json" in options and path == "/v1/jobs":
        uri = data_uri(photo)
        options = {**options, "json": {"image_url": uri, "model": "double", **options["json"]}}
    answer = client.open(path, method=method, **options)
    assert answer.status_code in statuses, answer.json
    assert answer.content_type == "application/problem+json"
    assert (count(sessions, Job), list(store.list_keys(""))) == (0, [])


def test_invented_methods_do_not_grow_the_metrics(client) -> None:
    for number in range(5):
        client.open("/v1/jobs", method=f"BREW{number}")
    text = client.get("/metrics").text
    assert "BREW" not in text
    assert 'method="OTHER"' in text


def test_a_chunked_body_over_the_limit_is_refused_rather_than_cut(service, photo) -> None:
    service.start_api(max_body_bytes=20_000)
    uri = data_uri(photo)
    body = b'{"model": "double", "image_url": "' + uri.encode() + b'"}' + b" " * 30_000
    parts = (body[start : start + 5000] for start in range(0, len(body), 5000))
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {BOOTSTRAP_KEY}"}
    with urllib3.PoolManager() as pool:
        answer = pool.urlopen(
            "POST", f"{service.url}/v1/jobs", body=parts, headers=headers, chunked=True, retries=False
        )
    assert answer.status == 413


def test_an_api_process_that_leaves_takes_nothing_from_the_others(service) -> None:
    api = service.start_api(api_workers=2)

    def workers() -> list[psutil.Process]:
        return [process for process in psutil.Process(api.popen.pid).children() if process.is_running()]

    first, *_ = workers()
    first.terminate()
    first.wait(30)
    eventually(lambda: len(workers()) == 2)
    assert {service.request("GET", "/metrics").status for _ in range(20)} == {200}
    folders = [Path(part) for part in api_metrics_folders(api)]
    assert api.stop() == 0
    assert not any(folder.exists() for folder in folders)


def api_metrics_folders(api: Process) -> list[str]:
    environment = psutil.Process(api.popen.pid).children()[0].environ()
    return [value for name, value in environment.items() if name == "PROMETHEUS_MULTIPROC_DIR"]


def test_a_key_whose_job_was_deleted_needs_a_new_key(client, photo) -> None:
    job = submit(client, photo, key="once").json
    client.delete(f"/v1/jobs/{job['id']}")
    answer = submit(client, photo, key="once")
    assert answer.status_code == 422
    assert "was deleted" in answer.json["detail"]


def test_the_same_idempotency_key_gives_the_same_job(client, photo, sessions) -> None:
    first, second = (submit(client, photo, key="k1", fps=7) for _ in range(2))
    assert first.json["id"] == second.json["id"]
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    other = submit(client, photo, key="k1", fps=8)
    assert (other.status_code, other.json["errors"][0]["field"]) == (422, "Idempotency-Key")
    assert count(sessions, Job) == 1


def test_concurrent_duplicates_get_the_first_ones_answer(make_client, photo, sessions, store) -> None:
    answers: list[Any] = []
    clients = [make_client() for _ in range(6)]
    threads = [threading.Thread(target=lambda c=c: answers.append(submit(c, photo, key="race"))) for c in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json["id"] for answer in answers}) == 1
    assert (count(sessions, Job), count(sessions, Input), len(list(store.list_keys("inputs/")))) == (1, 1, 1)


def test_an_idempotency_key_is_forgotten_after_its_time(make_client, photo) -> None:
    client = make_client(idempotency_ttl_s=0)
    assert submit(client, photo, key="k").json["id"] != submit(client, photo, key="k").json["id"]


@pytest.mark.parametrize("job_id", ["job_" + "0" * 32, "job_xyz", "42", "inp_" + "0" * 32, "job_" + "0" * 31 + "Z"])
def test_unknown_and_malformed_ids_are_not_found(client, job_id) -> None:
    for method, path in [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("GET", "/video"),
        ("GET", "/events"),
        ("GET", "/deliveries"),
    ]:
        answer = client.open(f"/v1/jobs/{job_id}{path}", method=method)
        assert (answer.status_code, answer.json["code"]) == (404, "not_found")


def test_no_tenant_sees_or_touches_anothers_job(client, photo, sessions) -> None:
    with sessions.begin() as session:
        _, key = create_key(session, ensure_tenant(session, "other"), "k")
    other = {"Authorization": f"Bearer {key}"}
    job_id = submit(client, photo).json["id"]
    for method, path in [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/video"), ("GET", "/events")]:
        assert client.open(f"/v1/jobs/{job_id}{path}", method=method, headers=other).status_code == 404
    assert client.get("/v1/jobs", headers=other).json["data"] == []
    assert client.get(f"/v1/jobs?after={job_id}", headers=other).status_code == 404
    input_id = client.get(f"/v1/jobs/{job_id}").json["input_id"]
    assert client.get(f"/v1/inputs/{input_id}", headers=other).status_code == 404
    assert client.post("/v1/jobs", json={"input_id": input_id}, headers=other).status_code == 404
    assert client.get(f"/v1/jobs/{job_id}").json["status"] == "queued"


def test_a_request_without_a_valid_key_is_unauthorized(client) -> None:
    for header in ("", "Bearer ", "Bearer nonsense", "Basic abc", "Bearer ak_" + "x" * 43):
        answer = client.get("/v1/jobs", headers={"Authorization": header})
        assert (answer.status_code, answer.json["code"]) == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_keys_are_shown_once_listed_without_their_secret_and_revoked_at_once(client) -> None:
    made = client.post("/v1/keys", json={"name": "ci"}).json
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert client.get("/v1/jobs", headers=headers).status_code == 200
    listed = client.get("/v1/keys").json["data"]
    assert {key["name"] for key in listed} == {"ci", "bootstrap"}
    assert made["key"] not in str(listed)
    assert client.delete(f"/v1/keys/{made['id']}").status_code == 204
    assert client.get("/v1/jobs", headers=headers).status_code == 401


def test_a_revoked_bootstrap_key_stays_revoked(client) -> None:
    (key,) = client.get("/v1/keys").json["data"]
    assert client.delete(f"/v1/keys/{key['id']}").status_code == 204
    assert client.get("/v1/keys").status_code == 401


def test_lists_page_through_all_jobs_and_filter(client, photo) -> None:
    made = [submit(client, photo, labels=f'{{"n": "{n % 2}"}}').json["id"] for n in range(5)]
    client.post(f"/v1/jobs/{made[0]}/cancel")
    seen: list[str] = []
    after = ""
    while True:
        page = client.get(f"/v1/jobs?limit=2{after}").json
        seen += [job["id"] for job in page["data"]]
        assert page["object"] == "list"
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert seen == made[::-1]
    assert [job["id"] for job in client.get("/v1/jobs?order=asc&limit=1").json["data"]] == made[:1]
    assert [job["id"] for job in client.get("/v1/jobs?status=canceled").json["data"]] == made[:1]
    assert len(client.get("/v1/jobs?label=n=1").json["data"]) == 2
    for query in ("limit=0", "limit=abc", "after=job_x", "status=done", "colour=red", "label=n"):
        answer = client.get(f"/v1/jobs?{query}")
        assert (answer.status_code, answer.json["errors"][0]["field"]) == (422, query.partition("=")[0])


def test_cancel_and_delete_of_a_queued_job(client, photo) -> None:
    job_id = submit(client, photo).json["id"]
    assert client.post(f"/v1/jobs/{job_id}/cancel").json["status"] == "canceled"
    assert client.get(f"/v1/jobs/{job_id}/video").status_code == 409
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert client.get(f"/v1/jobs/{job_id}").status_code == 404
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 404


def test_a_long_poll_returns_as_soon_as_the_job_ends(client, make_client, photo) -> None:
    job_id = submit(client, photo).json["id"]
    timer = threading.Timer(0.5, lambda: make_client().post(f"/v1/jobs/{job_id}/cancel"))
    timer.start()
    assert client.get(f"/v1/jobs/{job_id}?wait=30").json["status"] == "canceled"
    timer.join()
    assert client.get(f"/v1/jobs/{job_id}?wait=61").status_code == 422


def test_the_stream_sends_the_job_at_once_and_ends_with_it(client, make_client, photo) -> None:
    job_id = submit(client, photo).json["id"]
    timer = threading.Timer(0.5, lambda: make_client().post(f"/v1/jobs/{job_id}/cancel"))
    timer.start()
    answer = client.get(f"/v1/jobs/{job_id}/events")
    text = answer.get_data(as_text=True)
    timer.join()
    assert answer.content_type == "text/event-stream"
    assert text.count("event: job\n") == 2
    assert '"status":"queued"' in text
    assert '"status":"canceled"' in text


def test_too_many_streams_are_refused_while_a_long_poll_answers_at_once(make_client, photo) -> None:
    client = make_client(api_threads=2)
    job_id = submit(client, photo).json["id"]
    with client.get(f"/v1/jobs/{job_id}/events", buffered=False) as first:
        next(first.response)
        assert client.get(f"/v1/jobs/{job_id}/events").status_code == 429
        assert client.get(f"/v1/jobs/{job_id}?wait=30").json["status"] == "queued"


def test_a_tenant_with_many_requests_under_way_delays_no_other(make_client, photo, sessions) -> None:
    client = make_client(api_threads=4)
    job_id = submit(client, photo).json["id"]
    with sessions.begin() as session:
        _, key = create_key(session, ensure_tenant(session, "other"), "k")
    other = client.application.test_client()
    other.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {key}"
    with client.get(f"/v1/jobs/{job_id}/events", buffered=False) as stream:
        next(stream.response)
        assert submit(client, photo).status_code == 429
        assert client.get(f"/v1/jobs/{job_id}").status_code == 200
        assert submit(other, photo).status_code == 202
    assert submit(client, photo).status_code == 202


def test_jobs_are_accepted_while_redis_is_down(make_client, photo, sessions) -> None:
    client = make_client(redis_url="redis://127.0.0.1:1/0")
    assert submit(client, photo).status_code == 202
    assert client.get("/readyz").status_code == 200
    assert count(sessions, Job) == 1


def test_the_doorbell_rings_in_the_queue_of_the_model(client, photo, redis_url) -> None:
    submit(client, photo)
    with redis.Redis.from_url(redis_url) as queue:
        assert queue.llen("animatic:generate.double") == 1


def test_a_database_that_is_down_is_503_with_retry_after(make_client, photo) -> None:
    client = make_client(database_url="postgresql://animatic@127.0.0.1:1/animatic")
    for answer in (submit(client, photo), client.get("/readyz"), client.get("/v1/jobs")):
        assert (answer.status_code, answer.json["code"]) == (503, "database_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
    assert client.get("/healthz").status_code == 200


def test_a_store_that_is_full_or_forbidden_is_503_and_leaves_no_row(make_client, photo, sessions, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    client = make_client(object_store=str(tmp_path / "file" / "objects"))
    answer = submit(client, photo)
    assert (answer.status_code, answer.json["code"]) == (503, "storage_unavailable")
    assert (count(sessions, Job), count(sessions, Input)) == (0, 0)


def test_unknown_paths_and_methods_are_problems(client) -> None:
    assert client.get("/v1/nothing").json["code"] == "not_found"
    answer = client.put("/v1/jobs")
    assert (answer.status_code, answer.json["code"]) == (405, "method_not_allowed")
    assert "POST" in answer.headers["Allow"]


def test_only_trusted_hosts_are_answered(make_client) -> None:
    client = make_client(trusted_hosts=("animatic.example",))
    assert client.get("/v1/models", headers={"Host": "animatic.example"}).status_code == 200
    assert client.get("/v1/models", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/healthz", headers={"Host": "10.0.0.7:8000"}).status_code == 200  # a probe


def test_models_say_their_defaults_limits_and_who_is_there(client) -> None:
    listed = client.get("/v1/models").json["data"]
    assert [model["id"] for model in listed] == ["double", "tiny", "svd"]
    svd = client.get("/v1/models/svd").json
    assert (svd["defaults"]["num_frames"], svd["defaults"]["width"], svd["defaults"]["height"]) == (14, 1024, 576)
    assert svd["workers"] == 0
    assert client.get("/v1/models/svd-9").status_code == 404


def test_metrics_count_jobs_by_model_and_status(client, photo) -> None:
    submit(client, photo)
    text = client.get("/metrics").text
    assert 'animatic_jobs{model="double",status="queued"} 1.0' in text
    assert 'animatic_jobs_claimable{model="double"} 1.0' in text
    assert 'animatic_http_requests_total{method="POST",route="/v1/jobs",status="202"}' in text


def test_every_answer_carries_security_headers_and_the_docs_page_needs_no_inline_script(client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert "script-src 'self';" in page.headers["Content-Security-Policy"]
    assert "<script>" not in page.text
    for path in ("/docs/swagger/js/swagger-ui-bundle.js", "/docs/swagger/css/swagger-ui.css", "/static/docs.js"):
        assert path in page.text
        with client.get(path) as file:
            assert file.status_code == 200
    assert client.get("/healthz").headers["X-Content-Type-Options"] == "nosniff"
