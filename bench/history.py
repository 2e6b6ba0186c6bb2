"""Whether the life of a job costs more the more jobs have ended: claim, accept, sweep, reap and list, by history.

`python -m bench.history [--rows 0,10000,1000000]` starts Postgres, and for each number makes a database with so many
ended jobs and 200 queued ones. Then it times each step on all of them in turn. It fails if a plan sorts, or scans the
table from end to end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from api.auth import ensure_tenant
from cli.engines import run_postgres
from shared.catalogue import find_entry
from shared.database import Sessions, make_engine, make_sessions
from shared.ids import new_id
from shared.jobs.accept import NewJob, insert_job
from shared.jobs.claim import claim_job, claimable
from shared.jobs.reap import find_jobs, lease_expired, past_deadline
from shared.settings import Settings
from shared.tables import Input, Job

RESULT = Path(__file__).parent / "results" / "history.json"
ROUNDS = 200

_FILL = text("""
INSERT INTO jobs (id, tenant_id, status, model, params, warnings, labels, priority, rank, held, attempt, step,
                  total_steps, losses, transient_failures, input_id, created_at, finished_at)
SELECT gen_random_uuid(), tenant_id, 'succeeded', model, params, '[]', '{}', 0, n, false, 1, 10, 10, 0, 0, input_id,
       clock_timestamp() - n * interval '1 second', clock_timestamp()
FROM jobs, generate_series(1, :rows) AS n WHERE id = :like
""")


def new_job(tenant: UUID) -> NewJob:
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
    return NewJob(tenant_id=tenant, model="tiny", params=find_entry("tiny").defaults, input=image)


def steps(tenant: UUID) -> dict[str, Callable[[Session], object]]:
    """One transaction each."""
    page = select(Job).where(Job.tenant_id == tenant, Job.delete_requested_at.is_(None))
    return {
        "accept": lambda session: insert_job(session, new_job(tenant), queued_jobs_max=10_000),
        "claim": lambda session: claim_job(
            session, model="tiny", worker_id=new_id(), lease_s=30, attempt_deadline_s=900, public_url="http://bench"
        ),
        "sweep": lambda session: session.execute(
            select(Job.model, func.count()).where(claimable()).group_by(Job.model)
        ).all(),
        "reap": lambda session: (find_jobs(session, lease_expired()), find_jobs(session, past_deadline())),
        "list": lambda session: session.scalars(page.order_by(Job.created_at.desc(), Job.id.desc()).limit(20)).all(),
    }


def plans(session: Session, tenant: UUID) -> dict[str, list[str]]:
    """The plans of what is read, as Postgres explains them."""
    page = select(Job.id).where(Job.tenant_id == tenant).order_by(Job.created_at.desc(), Job.id.desc()).limit(20)
    statements: dict[str, Any] = {
        "claim": select(Job.id)
        .where(claimable(), Job.model == "tiny")
        .order_by(Job.priority.desc(), Job.rank, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True),
        "rank": select(func.max(Job.rank)).where(Job.model == "tiny", Job.priority == 0, Job.attempt > 0),
        "sweep": select(Job.model, func.count()).where(claimable()).group_by(Job.model),
        "reap": select(Job.id).where(lease_expired()),
        "list": page,
    }
    shown = {}
    for name, statement in statements.items():
        compiled = statement.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
        shown[name] = list(session.scalars(text(f"EXPLAIN {compiled}".replace(":", r"\:"))))
    return shown


@dataclass
class Database:
    """One of the databases that are compared."""

    rows: int
    sessions: Sessions
    tenant: UUID
    times_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def prepare(url: str, rows: int) -> Database:
    environment = {**os.environ, "ANIMATIC_DATABASE_URL": url}
    subprocess.run([sys.executable, "-m", "api.admin", "migrate"], env=environment, check=True)
    engine = make_engine(Settings(database_url=url))  # type: ignore[arg-type]
    sessions = make_sessions(engine)
    with sessions.begin() as session:
        tenant = ensure_tenant(session, "bench")
        like = insert_job(session, new_job(tenant), queued_jobs_max=10**9).id
        session.execute(text("SET LOCAL statement_timeout = 0"))
        session.execute(_FILL, {"rows": rows, "like": like})
        for _ in range(ROUNDS):
            insert_job(session, new_job(tenant), queued_jobs_max=10**9)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SET statement_timeout = 0")
        connection.exec_driver_sql("VACUUM ANALYZE")
    return Database(rows, sessions, tenant)


def measure(databases: list[Database]) -> None:
    """Round by round, each step on each database, forth and back."""
    for number in range(ROUNDS):
        for name in steps(databases[0].tenant):
            for database in databases if number % 2 else reversed(databases):
                step = steps(database.tenant)[name]
                start = time.perf_counter()
                with database.sessions.begin() as session:
                    step(session)
                database.times_ms[name].append(1000 * (time.perf_counter() - start))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="0,10000,1000000")
    counts = [int(part) for part in parser.parse_args().rows.split(",")]
    with tempfile.TemporaryDirectory(prefix="animatic-bench-") as name:
        Path(name).chmod(0o711)
        with run_postgres(Path(name) / "postgres") as url:
            databases = []
            for number, rows in enumerate(counts):
                engine = make_engine(Settings(database_url=url))  # type: ignore[arg-type]
                with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    connection.exec_driver_sql(f"CREATE DATABASE bench_{number}")
                engine.dispose()
                print(f"filling {rows} rows", file=sys.stderr)
                databases.append(prepare(url.rpartition("/")[0] + f"/bench_{number}", rows))
            measure(databases)
            with databases[-1].sessions() as session:
                explained = plans(session, databases[-1].tenant)
    medians = {
        database.rows: {name: round(statistics.median(times), 2) for name, times in database.times_ms.items()}
        for database in databases
    }
    first, last = medians[counts[0]], medians[counts[-1]]
    result = {
        "command": f"python -m bench.history --rows {','.join(map(str, counts))}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "median_ms_by_rows": medians,
        "ratio_of_last_to_first": {name: round(last[name] / first[name], 2) for name in first},
        "plans_at_the_last": explained,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: result[name] for name in ("median_ms_by_rows", "ratio_of_last_to_first")}, indent=2))
    for name, plan in explained.items():
        if counts[-1] >= 10_000 and any("Seq Scan on jobs" in line or "Sort" in line for line in plan):
            sys.exit(f"the plan of {name} grows with history:\n" + "\n".join(plan))


if __name__ == "__main__":
    main()
