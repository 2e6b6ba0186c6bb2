"""Fixtures for every test: real Postgres and Redis, a fresh database each, and the service as processes."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
import redis
from pydantic import SecretStr
from sqlalchemy import Engine
from support import BOOTSTRAP_KEY, PUBLIC_URL, WORKER_ID, Engines, Service, migrate

from api.app import create_app
from api.auth import ensure_tenant
from cli.engines import run_postgres, run_redis
from shared.catalogue import find_entry, resolve
from shared.database import Sessions, make_engine, make_sessions
from shared.ids import new_id
from shared.jobs.accept import NewJob, insert_job
from shared.jobs.claim import Claim, claim_job
from shared.objects import ObjectStore, open_store
from shared.params import GenerationOptions
from shared.quotas import Quotas
from shared.settings import Settings
from shared.tables import Input

if "PYTEST_XDIST_WORKER" in os.environ:
    # The processes of the tests share the cores; torch's threads would spin while they wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "docs" / "samples"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect, rather than skip, what needs a GPU where there is none; keep together what shares costly fixtures."""
    for item in items:
        if "chaos" not in item.path.parts:
            item.add_marker(pytest.mark.xdist_group("browser" if "browser" in item.path.parts else item.path.stem))
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu and not _has_gpu():
        config.hook.pytest_deselected(items=gpu)
        items[:] = [item for item in items if item not in gpu]


def _has_gpu() -> bool:
    return Path("/dev/nvidiactl").exists()


@pytest.fixture(scope="session")
def engines() -> Iterator[Engines]:
    """One Postgres and one Redis for all tests; the template database is migrated once."""
    folder = Path(tempfile.mkdtemp(prefix="animatic-tests-"))
    folder.chmod(0o711)  # Postgres runs as another user when we are root
    try:
        with run_postgres(folder / "postgres") as postgres_url, run_redis(folder / "redis") as redis_url:
            with psycopg.connect(postgres_url, autocommit=True) as connection:
                # Nobody cuts the power here, and each test makes a database of its own.
                connection.execute("ALTER SYSTEM SET fsync = off")
                connection.execute("SELECT pg_reload_conf()")
            migrate(postgres_url)
            yield Engines(postgres_url, redis_url)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database_url(engines: Engines) -> Iterator[str]:
    """A fresh, migrated database."""
    name = f"test_{new_id().hex}"
    with psycopg.connect(engines.admin_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE animatic")
        yield engines.database_url(name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def redis_url(engines: Engines) -> str:
    """Redis, empty."""
    with redis.Redis.from_url(engines.redis_url) as client:
        client.flushall()
    return engines.redis_url


@pytest.fixture
def settings(database_url: str, redis_url: str, tmp_path: Path) -> Settings:
    return Settings(
        database_url=database_url,
        redis_url=redis_url,
        object_store=str(tmp_path / "objects"),
        bootstrap_api_key=BOOTSTRAP_KEY,
        outbound_allow=("127.0.0.1",),
        models=("double", "tiny", "svd"),
    )


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = make_engine(settings)
    yield engine
    for thread in threading.enumerate():
        if thread.name.startswith("lease-"):  # its job does not wait for it; it has a connection to give back
            thread.join(10)
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> Sessions:
    return make_sessions(engine)


@pytest.fixture
def store(settings: Settings) -> ObjectStore:
    return open_store(settings)


@pytest.fixture
def make_client(settings: Settings) -> Iterator[Callable[..., object]]:
    """Makes a client of an app with these settings, or with some changed."""
    apps = []

    def make(**changes: object) -> object:
        secret = {name: SecretStr(str(changes[name])) for name in ("database_url", "redis_url") if name in changes}
        app = create_app(settings.model_copy(update=changes | secret))
        apps.append(app)
        client = app.test_client()
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {BOOTSTRAP_KEY}"
        return client

    yield make
    for app in apps:
        services = app.extensions["animatic"]
        services.streams.is_stopping = lambda: True
        services.decoder.close()
        services.limiter.close()
        services.engine.dispose()
        services.doorbell.close()


@pytest.fixture
def client(make_client: Callable[..., object]) -> object:
    return make_client()


@pytest.fixture
def rocket() -> bytes:
    return (SAMPLES / "rocket.jpg").read_bytes()


@pytest.fixture
def service(settings: Settings, tmp_path: Path) -> Iterator[Service]:
    """API, worker and maintainer as processes of their own; started by the test."""
    service = Service(settings, tmp_path / "logs")
    yield service
    service.stop_all()


@pytest.fixture
def tenant(sessions: Sessions) -> UUID:
    with sessions.begin() as session:
        return ensure_tenant(session, "default")


@pytest.fixture
def new_job(tenant: UUID) -> Callable[..., NewJob]:
    def new_job(*, owner: UUID | None = None, size_bytes: int = 1, **fields: object) -> NewJob:
        owner = owner or tenant
        image = Input(
            id=new_id(),
            tenant_id=owner,
            object_key="inputs/x.png",
            sha256="0" * 64,
            size_bytes=size_bytes,
            width=64,
            height=64,
            media_type="image/png",
        )
        params = resolve(GenerationOptions(seed=1), find_entry("tiny"))
        return NewJob(tenant_id=owner, model="tiny", params=params, input=image, **fields)

    return new_job


@pytest.fixture
def submit(sessions: Sessions, new_job: Callable[..., NewJob]) -> Callable[..., UUID]:
    def submit(*, queued_jobs_max: int = 100, **fields: object) -> UUID:
        with sessions.begin() as session:
            return insert_job(session, new_job(**fields), Quotas(queued_jobs_max)).id

    return submit


@pytest.fixture
def claim(sessions: Sessions) -> Callable[..., Claim | None]:
    def claim(worker_id: UUID = WORKER_ID, lease_s: float = 30) -> Claim | None:
        with sessions.begin() as session:
            return claim_job(
                session,
                model="tiny",
                worker_id=worker_id,
                lease_s=lease_s,
                attempt_deadline_s=900,
                public_url=PUBLIC_URL,
            )

    return claim


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Matrices as small as the toy models' are sooner done than handed to a second thread."""
    import torch  # only those who ask for it wait for it

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
