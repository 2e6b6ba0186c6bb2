"""Fixtures of the fault campaign: a lease that can be waited for, and objects behind a proxy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from fault_proxy import HttpFaultProxy
from moto.server import ThreadedMotoServer
from support import Service
from trial import FAST, Trial

from shared.settings import Settings


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update=FAST)


@pytest.fixture
def make_trial(rocket: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Trial]]:
    """Makes trials of services with these settings; each must have been judged when the test ends well."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))  # what killed processes leave behind
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # several pipelines at once must not fight for the cores
    trials: list[Trial] = []

    def make(settings: Settings) -> Trial:
        trials.append(Trial(Service(settings, tmp_path / f"logs-{len(trials)}"), rocket))
        return trials[-1]

    yield make
    for trial in trials:
        trial.service.stop_all()
        trial.engine.dispose()


@pytest.fixture
def trial(make_trial: Callable[..., Trial], settings: Settings) -> Trial:
    return make_trial(settings)


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_settings(settings: Settings, s3_url: str, tmp_path: Path) -> Settings:
    """Objects in a bucket of their own, reached directly."""
    bucket = f"bucket-{os.urandom(6).hex()}"
    access = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=s3_url, **access).create_bucket(Bucket=bucket)
    changes = {
        "object_store": f"s3://{bucket}/below",
        "s3_endpoint_url": s3_url,
        "s3_access_key_id": "key",
        "s3_secret_access_key": "secret",
    }
    given = settings.model_dump(exclude_unset=True) | changes
    return Settings(**given)


@pytest.fixture
def s3_proxy(s3_url: str) -> Iterator[HttpFaultProxy]:
    with HttpFaultProxy(s3_url) as proxy:
        yield proxy


@pytest.fixture
def s3_trial(make_trial: Callable[..., Trial], s3_settings: Settings) -> Trial:
    return make_trial(s3_settings)
