"""Does the time of a 404 tell whether another tenant has the job? `python -m bench.refusals [--requests N]`.

Asks in turn for jobs that nobody has and for jobs that another tenant has, of the API's own application on a real
Postgres, and compares: medians, and the chance that a random answer about another's job is slower than a random one
about none. 0.5 is no difference.
"""

from __future__ import annotations

import argparse
import bisect
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from api.app import create_app
from api.auth import create_key, ensure_tenant
from cli.engines import run_postgres, run_redis
from shared.catalogue import find_entry, resolve
from shared.database import make_engine, make_sessions
from shared.ids import new_id, show_id
from shared.params import GenerationOptions
from shared.settings import Settings
from shared.tables import Job

RESULT = Path(__file__).parent / "results" / "refusals.json"


def slower_share(first: list[float], second: list[float]) -> float:
    """How likely one of `second` is slower than one of `first`."""
    ordered = sorted(first)
    below = sum(bisect.bisect_left(ordered, value) + bisect.bisect_right(ordered, value) for value in second)
    return below / 2 / len(first) / len(second)


def measure(settings: Settings, requests: int) -> dict[str, list[float]]:
    engine = make_engine(settings)
    with make_sessions(engine).begin() as session:
        _, key = create_key(session, ensure_tenant(session, "asks"), "bench")
        params = resolve(GenerationOptions(seed=1), find_entry("tiny")).model_dump(mode="json")
        has = ensure_tenant(session, "has")
        # Each is asked for once, as those that are not there are.
        others = [new_id() for _ in range(requests)]
        session.add_all(Job(id=job_id, tenant_id=has, model="tiny", params=params) for job_id in others)
    engine.dispose()
    client = create_app(settings).test_client()
    headers = {"Authorization": f"Bearer {key}"}
    seconds: dict[str, list[float]] = {"absent": [], "another's": []}
    for number, others_id in enumerate(others):
        pair = [("absent", show_id("job", new_id())), ("another's", show_id("job", others_id))]
        for name, job_id in pair if number % 2 else reversed(pair):
            started = time.perf_counter()
            status = client.get(f"/v1/jobs/{job_id}", headers=headers).status_code
            took = time.perf_counter() - started
            if status != 404:
                raise SystemExit(f"status {status}")
            if number >= requests // 10:  # warm by then
                seconds[name].append(took)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=3000)
    requests = parser.parse_args().requests
    with tempfile.TemporaryDirectory(prefix="animatic-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        with run_postgres(folder / "postgres") as database_url, run_redis(folder / "redis") as redis_url:
            settings = Settings(
                database_url=database_url,  # type: ignore[arg-type]
                redis_url=redis_url,  # type: ignore[arg-type]
                object_store=str(folder / "objects"),
                rate_limit_per_minute=0,
            )
            subprocess.run(
                [sys.executable, "-m", "api.admin", "migrate"], env={"ANIMATIC_DATABASE_URL": database_url}, check=True
            )
            seconds = measure(settings, requests)
    result = {
        "requests_each": len(seconds["absent"]),
        "p50_ms": {name: round(1000 * statistics.median(values), 3) for name, values in seconds.items()},
        "chance_that_anothers_is_slower": round(slower_share(seconds["absent"], seconds["another's"]), 3),
        "python": platform.python_version(),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
