"""`python -m bench.service`: requests, jobs and history, each next to what a user would build instead, in one run.

Prints the tables that the README shows. Starts Postgres and Redis, the API and a bare Flask endpoint under the same
gunicorn settings, and one worker of each queue. RQ and procrastinate come with the extra `bench`; what is not installed
is left out, and said. Exit code 1 if a plan at the last of --rows, if these are 100,000 or more, scans `jobs` from end
to end, or sorts.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.service.experiments import measure_experiment
from bench.service.history import (
    count_claims,
    explain_steps,
    growing_plans,
    measure_steps,
    median_ratios,
    medians,
)
from bench.service.intake import measure_accept, measure_poll
from bench.service.queues import celery_queue, measure_life, measure_pickup, own_queue, procrastinate_queue, rq_queue
from bench.service.report import tables
from bench.service.site import Site, open_site
from bench.service.streams import measure_streams
from bench.service.tables import add_queued, make_database

RESULT = Path(__file__).parent.parent / "results" / "service.json"
#: more than there can be: the queue must not run empty.
_CLAIMS_PER_S_MAX = 2_000
#: where so few jobs have ended, reading all of them may be the best plan.
_ROWS_FOR_PLANS = 100_000
_QUEUES = {"Animatic": own_queue, "bare Celery": celery_queue, "RQ": rq_queue, "procrastinate": procrastinate_queue}
_MODULES = {"RQ": "rq", "procrastinate": "procrastinate"}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.service", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=300, help="of one caller, for each endpoint (default 300)")
    parser.add_argument("--window", type=float, default=12, help="s of 8 callers at once, each endpoint (default 12)")
    parser.add_argument("--streams", type=int, default=200, help="idle listeners at once (default 200)")
    parser.add_argument("--jobs", type=int, default=300, help="no-op jobs for each queue (default 300)")
    parser.add_argument("--pickups", type=int, default=50, help="jobs for an idle worker, each (default 50)")
    parser.add_argument("--rows", default="0,10000,1000000", help="ended jobs in the table (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=200, help="of each step at each number of rows (default 200)")
    parser.add_argument("--claimers", default="1,4,16", help="workers that claim at once (default %(default)s)")
    parser.add_argument("--claim-seconds", type=float, default=4, help="of each number of claimers (default 4)")
    parser.add_argument("--cells", type=int, default=1000, help="of the experiment (default 1000)")
    parser.add_argument(
        "--only",
        choices=["requests", "streams", "jobs", "history", "experiments"],
        nargs="*",
        help="parts (default: all)",
    )
    parser.add_argument("--result", type=Path, default=RESULT, help="where the JSON goes (default %(default)s)")
    return parser.parse_args()


def measure_requests(site: Site, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "POST of a photo": measure_accept(site, count=options.requests, window_s=options.window),
        "GET of a job": measure_poll(site, count=options.requests, window_s=options.window),
    }


def measure_listeners(site: Site, options: argparse.Namespace) -> dict[str, Any]:
    return {"beside idle streams": measure_streams(site, streams=options.streams, count=options.requests)}


def measure_jobs(site: Site, options: argparse.Namespace) -> dict[str, Any]:
    missing = {name for name, module in _MODULES.items() if importlib.util.find_spec(module) is None}
    life = {}
    for name, open_queue in _QUEUES.items():
        if name in missing:
            _say(f"{name} is not installed: pip install '.[bench]'")
            continue
        _say(f"jobs through {name}")
        with open_queue(site) as queue:
            life[name] = measure_life(queue, count=options.jobs)
    _say("pick-up by an idle worker")
    return {"no-op jobs, one worker": life, **measure_pickup(site, count=options.pickups)}


def measure_history(site: Site, options: argparse.Namespace) -> dict[str, Any]:
    counts = [int(part) for part in options.rows.split(",")]
    claimers = [int(part) for part in options.claimers.split(",")]
    databases = []
    for number, rows in enumerate(counts):
        _say(f"filling {rows} rows")
        databases.append(make_database(site.database_url, f"bench_{number}", rows=rows, queued=2 * options.rounds))
    _say("steps of a job's life")
    measure_steps(databases, options.rounds)
    plans = explain_steps(databases[-1])
    _say("claims per second")
    for database in databases:
        add_queued(database, 100 + round(_CLAIMS_PER_S_MAX * options.claim_seconds * len(claimers)))
    claims = count_claims(databases, claimers, options.claim_seconds)
    result = {
        "median ms of a step, by rows": {database.rows: medians(database) for database in databases},
        "cost at the most rows to that at the fewest": median_ratios(databases[0], databases[-1]),
        "claims per s by rows and workers": claims,
        "plans at the most rows": plans,
    }
    for database in databases:
        database.engine.dispose()
    return result


def measure_experiments(site: Site, options: argparse.Namespace) -> dict[str, Any]:
    _say("an experiment that waits")
    rows = int(options.rows.split(",")[len(options.rows.split(",")) // 2])
    queued = 2 * options.rounds + 100
    databases = [
        make_database(site.database_url, f"bench_{name}", rows=rows, queued=queued) for name in ("without", "beside")
    ]
    result = measure_experiment(*databases, cells=options.cells, rounds=options.rounds)
    for database in databases:
        database.engine.dispose()
    return {f"an experiment, at {rows} ended jobs": result}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    options = parse_arguments()
    parts = {
        "requests": measure_requests,
        "streams": measure_listeners,
        "jobs": measure_jobs,
        "history": measure_history,
        "experiments": measure_experiments,
    }
    result: dict[str, Any] = {
        "command": " ".join(["python -m bench.service", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    with tempfile.TemporaryDirectory(prefix="animatic-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # Postgres runs as another user when we are root
        with open_site(folder) as site:
            for part, measure in parts.items():
                if part in (options.only or parts):
                    _say(f"measuring {part}")
                    result |= measure(site, options)
    text = json.dumps(result, indent=2, ensure_ascii=False)
    options.result.write_text(text + "\n", encoding="utf-8")
    print(tables(json.loads(text)))
    growing = growing_plans(result.get("plans at the most rows", {}))
    if growing and int(options.rows.rpartition(",")[2]) >= _ROWS_FOR_PLANS:
        sys.exit("plans that grow with history:\n" + "\n".join(growing))


if __name__ == "__main__":
    main()
