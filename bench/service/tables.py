"""Databases that differ only in how many jobs have ended in them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Engine, text

from api.auth import ensure_tenant
from shared.catalogue import find_entry
from shared.database import Sessions, make_engine, make_sessions
from shared.ids import new_id
from shared.jobs.accept import NewJob, insert_job
from shared.quotas import Quotas
from shared.settings import Settings
from shared.tables import Input

MODEL = "double"

_FILL = text("""
INSERT INTO jobs (id, tenant_id, status, model, params, warnings, labels, priority, rank, held, attempt, step,
                  total_steps, losses, transient_failures, input_id, created_at, finished_at)
SELECT gen_random_uuid(), tenant_id, :status, model, params, '[]', '{}', 0, :after + n, false, :attempt, 0, 10, 0, 0,
       input_id, clock_timestamp() - (:rows - n) * interval '1 second',
       CASE WHEN :status = 'queued' THEN NULL ELSE clock_timestamp() END
FROM jobs, generate_series(1, :rows) AS n WHERE id = :like
""")


def new_job(tenant: UUID, model: str = MODEL) -> NewJob:
    """As the API would make it of a small image; nothing is stored."""
    image = Input(
        id=new_id(),
        tenant_id=tenant,
        object_key="inputs/x.png",
        sha256="0" * 64,
        size_bytes=1,
        width=64,
        height=64,
        media_type="image/png",
    )
    return NewJob(tenant_id=tenant, model=model, params=find_entry(model).defaults, input=image)


@dataclass
class Database:
    """One of those that are compared."""

    rows: int
    settings: Settings
    engine: Engine
    #: whose jobs wait in great number, and another, who has none.
    tenant: UUID
    caller: UUID
    #: what the others are copies of.
    like: UUID
    times_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def sessions(self) -> Sessions:
        return make_sessions(self.engine)


def make_database(server_url: str, name: str, *, rows: int, queued: int) -> Database:
    """A migrated database of its own with so many ended jobs, and so many that wait.

    Args:
        server_url: of any database there.
    """
    admin = make_engine(_settings(server_url))
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    admin.dispose()
    settings = _settings(server_url.rpartition("/")[0] + f"/{name}")
    environment = {**os.environ, "ANIMATIC_DATABASE_URL": settings.database_url.get_secret_value()}
    subprocess.run([sys.executable, "-m", "api.admin", "migrate"], env=environment, check=True)
    engine = make_engine(settings, pool_size=20)
    with make_sessions(engine).begin() as session:
        tenant, caller = ensure_tenant(session, "bench"), ensure_tenant(session, "caller")
        like = insert_job(session, new_job(tenant), Quotas(10**9)).id
    database = Database(rows, settings, engine, tenant, caller, like)
    _fill(database, rows, {"status": "succeeded", "after": 0, "attempt": 1})
    add_queued(database, queued)
    return database


def add_queued(database: Database, count: int) -> None:
    """More jobs that wait, at the end of the queue."""
    _fill(database, count, {"status": "queued", "after": 10 * database.rows, "attempt": 0})


def _fill(database: Database, rows: int, values: dict[str, object]) -> None:
    with database.sessions.begin() as session:
        session.execute(text("SET LOCAL statement_timeout = 0"))
        session.execute(_FILL, {"rows": rows, "like": database.like, **values})
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SET statement_timeout = 0")
        connection.exec_driver_sql("VACUUM ANALYZE")
        # Or its writing what was filled in here would go on beside what is measured.
        connection.exec_driver_sql("CHECKPOINT")


def _settings(url: str) -> Settings:
    return Settings(database_url=url)  # type: ignore[arg-type]  # pydantic makes it a secret
