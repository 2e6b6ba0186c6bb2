"""One conformance suite for every object store: a local directory, and S3 as spoken by moto's server."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
import urllib3
from moto.server import ThreadedMotoServer

from api.app import create_app
from cli.engines import free_port
from shared.errors import GoneError, NotFoundError, StorageError
from shared.objects import LocalStore, ObjectMissingError, ObjectStore, open_store
from shared.objects.store import delete_prefix
from shared.settings import Settings


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_settings(s3_endpoint: str, request: pytest.FixtureRequest) -> Settings:
    bucket = f"bucket-{abs(hash(request.node.name))}"
    settings = Settings(
        object_store=f"s3://{bucket}/below/here",
        s3_endpoint_url=s3_endpoint,
        s3_access_key_id="key",
        s3_secret_access_key="secret",
    )
    boto3.client(
        "s3",
        endpoint_url=s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    ).create_bucket(Bucket=bucket)
    return settings


@pytest.fixture(params=["local", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "local":
        return open_store(Settings(object_store=str(tmp_path / "objects")))
    return open_store(request.getfixturevalue("s3_settings"))


def test_what_is_put_is_got_and_replaced_whole(any_store: ObjectStore, tmp_path: Path) -> None:
    any_store.put("a/b/one.bin", b"first", media_type="application/octet-stream")
    assert any_store.get("a/b/one.bin") == b"first"
    (tmp_path / "file").write_bytes(b"second" * 100_000)
    any_store.put("a/b/one.bin", tmp_path / "file", media_type="application/octet-stream")
    assert any_store.get("a/b/one.bin") == b"second" * 100_000


def test_a_missing_object_is_told_from_a_store_that_fails(any_store: ObjectStore) -> None:
    with pytest.raises(ObjectMissingError):
        any_store.get("nothing/here")
    any_store.delete("nothing/here")  # no error


def test_keys_are_listed_by_prefix_and_deleted_by_prefix(any_store: ObjectStore) -> None:
    keys = {"jobs/1/a", "jobs/1/b/c", "jobs/10/a", "inputs/x"}
    for key in keys:
        any_store.put(key, b"x", media_type="text/plain")
    assert set(any_store.list_keys("")) == keys
    assert set(any_store.list_keys("jobs/1/")) == {"jobs/1/a", "jobs/1/b/c"}
    assert delete_prefix(any_store, "jobs/1/") == 2
    assert set(any_store.list_keys("")) == {"jobs/10/a", "inputs/x"}
    assert list(any_store.list_keys("no/such/prefix")) == []


def test_check_passes_on_a_store_that_works(any_store: ObjectStore) -> None:
    any_store.check()


def test_a_signed_url_gives_one_object_without_credentials_until_it_expires(
    any_store: ObjectStore, settings: Settings, tmp_path: Path
) -> None:
    any_store.put("jobs/1/video.mp4", b"0123456789", media_type="video/mp4")

    def fetch(url: str, headers: dict[str, str] | None = None) -> tuple[int, bytes, dict[str, str]]:
        if isinstance(any_store, LocalStore):
            app = create_app(settings.model_copy(update={"object_store": str(tmp_path / "objects")}))
            with app.test_client().get(url.removeprefix("http://127.0.0.1:8000"), headers=headers) as answer:
                return answer.status_code, answer.data, dict(answer.headers)
        answer = urllib3.request("GET", url, headers=headers, retries=False)
        return answer.status, answer.data, {name.title(): value for name, value in answer.headers.items()}

    url = any_store.signed_url("jobs/1/video.mp4", ttl_s=60, media_type="video/mp4", filename="my.mp4")
    status, body, headers = fetch(url)
    assert (status, body, headers["Content-Type"]) == (200, b"0123456789", "video/mp4")
    assert "my.mp4" in headers["Content-Disposition"]
    assert fetch(url, {"Range": "bytes=2-4"})[:2] == (206, b"234")
    if isinstance(any_store, LocalStore):  # moto does not check signatures
        assert fetch(url.replace("video.mp4?", "other.mp4?"))[0] == 404
        assert fetch(url.replace("type=video", "type=text"))[0] == 404
        assert fetch(url.replace("signature=", "signature=0"))[0] == 404
        assert fetch(url.partition("?")[0])[0] == 404
        assert fetch(any_store.signed_url("jobs/1/video.mp4", ttl_s=-1, media_type="video/mp4"))[0] == 410


def test_processes_that_share_a_directory_sign_alike(tmp_path: Path) -> None:
    one, two = (LocalStore(tmp_path, public_url="http://h") for _ in range(2))
    one.put("k", b"x", media_type="text/plain")
    url = urllib3.util.parse_url(one.signed_url("k", ttl_s=60, media_type="text/plain"))
    fields = dict(pair.split("=") for pair in (url.query or "").replace("%2F", "/").split("&"))
    assert two.open_signed("k", fields).read_bytes() == b"x"
    with pytest.raises(GoneError):
        two.open_signed("k", _expired(one))
    assert (tmp_path / ".signing-key").stat().st_mode & 0o077 == 0
    assert list(one.list_keys("")) == ["k"]


def _expired(store: LocalStore) -> dict[str, str]:
    url = urllib3.util.parse_url(store.signed_url("k", ttl_s=-60, media_type="text/plain"))
    return dict(pair.split("=") for pair in (url.query or "").replace("%2F", "/").split("&"))


def test_a_signature_holds_for_one_division_into_key_and_fields(tmp_path: Path) -> None:
    store = LocalStore(tmp_path, public_url="http://h")
    store.put("k", b"x", media_type="text/plain")
    url = urllib3.util.parse_url(store.signed_url("k", ttl_s=60, media_type="text/plain", filename="f"))
    signed = dict(pair.split("=") for pair in (url.query or "").replace("%2F", "/").split("&"))
    assert store.open_signed("k", signed).read_bytes() == b"x"
    expires, kind = signed["expires"], signed["type"]
    for key, fields in {
        f"k\nexpires={expires}": {"filename": "f", "type": kind},
        f"k\nexpires={expires}\nfilename=f": {"type": kind},
        f"k&expires={expires}": {"filename": "f", "type": kind},
        "k": {"expires": f"{expires}\nfilename=f", "type": kind},
    }.items():
        with pytest.raises(NotFoundError):
            store.open_signed(key, {**fields, "signature": signed["signature"]})


@pytest.mark.parametrize("key", [".signing-key", ".partial/x", "../secret", "/etc/passwd", "a/../../b", "a\0b"])
def test_no_key_leaves_the_local_store(tmp_path: Path, key: str) -> None:
    store = LocalStore(tmp_path / "objects", public_url="http://h")
    with pytest.raises(NotFoundError):
        store.get(key)
    with pytest.raises(NotFoundError):
        store.put(key, b"x", media_type="text/plain")


def test_putting_and_deleting_at_once_never_fails(tmp_path: Path) -> None:
    store = LocalStore(tmp_path, public_url="http://h")

    def churn(name: str) -> None:
        for _ in range(100):
            store.put(f"inputs/{name}", b"x", media_type="text/plain")
            store.delete(f"inputs/{name}")

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(churn, str(number)) for number in range(4)]:
            done.result()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_full_disk_is_a_storage_error_and_leaves_no_half_object(tmp_path: Path) -> None:
    store = LocalStore(Path("/dev/full"), public_url="http://h")
    with pytest.raises(StorageError):
        store.put("k", b"x", media_type="text/plain")
    with pytest.raises(StorageError):
        store.check()


def test_s3_that_is_down_or_refuses_is_a_storage_error(s3_settings: Settings) -> None:
    down = open_store(s3_settings.model_copy(update={"s3_endpoint_url": f"http://127.0.0.1:{free_port()}"}))
    missing = open_store(s3_settings.model_copy(update={"object_store": "s3://no-such-bucket"}))
    for store in (down, missing):
        started = time.monotonic()
        with pytest.raises(StorageError):
            store.check()
        with pytest.raises(StorageError):
            store.put("k", b"x", media_type="text/plain")
        assert time.monotonic() - started < 30


def test_presigned_urls_carry_the_public_endpoint(s3_settings: Settings) -> None:
    store = open_store(s3_settings.model_copy(update={"s3_public_endpoint_url": "https://media.example.org"}))
    store.put("k", b"x", media_type="text/plain")
    assert store.signed_url("k", ttl_s=60, media_type="text/plain").startswith("https://media.example.org/")


def test_the_environment_needs_no_aws_credentials_of_its_own(s3_settings: Settings) -> None:
    assert "AWS_ACCESS_KEY_ID" not in os.environ
    open_store(s3_settings).check()
