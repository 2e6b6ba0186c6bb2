"""What a queue of jobs gets out of one worker: jobs per hour, how busy its device is, the gap between two jobs.

`python -m bench.worker_throughput [--models double,tiny]` starts Postgres, Redis, the API and a maintainer. For each
model and round it queues the jobs, starts one real worker, and waits for the last result: once with the next job
generated while a result is encoded and stored, and once one after the other, in turn. The times are those that the
results' manifests give. `double` sleeps through its steps, as the processor does while a GPU works; `tiny` denoises on
the same cores that encode, unless there is a GPU. Any checkpoint can be measured, at a size of choice.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select

from bench.service.site import PHOTO, Site, open_service
from cli.client import Client
from cli.place import Place
from cli.submit import create_job
from shared.catalogue import find_entry
from shared.database import make_engine, make_sessions
from shared.ids import parse_id
from shared.objects import open_store
from shared.states import JobStatus
from shared.tables import Job

RESULT = Path(__file__).parent / "results" / "worker_throughput.json"

_MODES = {"one after the other": "false", "overlapped": "true"}
#: seconds for one job, at most.
_PATIENCE_S = 120.0
_ON_DEVICE = ("encode_image", "denoise", "decode", "drift")


@dataclass(frozen=True)
class Run:
    """When one job had the device, and when its result was stored; Unix times by the database's clock."""

    device_from: float
    device_until: float
    stored_at: float


def summarize(runs: Sequence[Run]) -> dict[str, float]:
    """
    Args:
        runs: two or more of one worker.

    Returns:
        `jobs_per_hour` from the first one's start to the last result; `device_busy`, the share of the time in
        the pipeline between the first one's start and the last one's end there; the median `gap_ms` between two.
    """
    ordered = sorted(runs, key=lambda run: run.device_from)
    first, last = ordered[0], ordered[-1]
    busy_s = sum(run.device_until - run.device_from for run in ordered)
    gaps_s = [after.device_from - before.device_until for before, after in itertools.pairwise(ordered)]
    return {
        "jobs_per_hour": round(3600 * len(ordered) / (max(run.stored_at for run in ordered) - first.device_from), 1),
        "device_busy": round(busy_s / (last.device_until - first.device_from), 4),
        "gap_ms": round(1000 * statistics.median(gaps_s), 1),
    }


def measure(site: Site, model: str, fields: dict[str, str], count: int, overlap: str) -> list[Run]:
    """Queue the jobs, start a worker, wait for all of them."""
    with Client(Place(site.api_url, site.api_key)) as client:
        given = {"model": find_entry(model).name, "seed": "1", **fields}
        jobs = [create_job(client, str(PHOTO), given)["id"] for _ in range(count)]
    env = site.environment(ANIMATIC_MODEL=model, ANIMATIC_OVERLAP=overlap)
    with site.running(site.program(f"worker-{find_entry(model).name}-{overlap}", "worker", env=env), ready=" ready: "):
        _await_end(site, count)
    return _read_runs(site, jobs)


def _await_end(site: Site, count: int) -> None:
    engine = make_engine(site.settings())
    open_jobs = select(func.count()).where(Job.status.in_((JobStatus.QUEUED, JobStatus.RUNNING)))
    deadline = time.monotonic() + count * _PATIENCE_S
    with make_sessions(engine)() as session:
        while session.scalar(open_jobs):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{count} jobs have not ended within {count * _PATIENCE_S:g} s")
            session.rollback()
            time.sleep(0.2)
    engine.dispose()


def _read_runs(site: Site, jobs: list[str]) -> list[Run]:
    engine, store = make_engine(site.settings()), open_store(site.settings())
    runs = []
    with make_sessions(engine)() as session:
        for name in jobs:
            job = session.get_one(Job, parse_id("job", name))
            if job.result is None or job.started_at is None or job.finished_at is None:
                raise RuntimeError(f"{name} has {job.status}: {job.error_message}")
            timings = json.loads(store.get(job.result["manifest"]["key"]))["timings_s"]
            begun = job.started_at.timestamp() + timings["fetch"]
            runs.append(
                Run(begun, begun + sum(timings.get(stage, 0.0) for stage in _ON_DEVICE), job.finished_at.timestamp())
            )
    engine.dispose()
    return runs


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.worker_throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--jobs", type=int, default=20, help="in the queue; 2 or more (default 20)")
    parser.add_argument("--models", default="double,tiny", help="also NAME=DIRECTORY (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="of both modes, for each model (default 1)")
    parser.add_argument(
        "--steps", type=int, default=100, help="of a job, 50 ms each in double; not of tiny (default 100)"
    )
    parser.add_argument(
        "--shape", default="14x192x320", help="frames, height and width; not of tiny (default %(default)s)"
    )
    parser.add_argument("--result", type=Path, default=RESULT, help="where the JSON goes (default %(default)s)")
    options = parser.parse_args()
    if options.jobs < 2 or options.rounds < 1:
        parser.error(f"--jobs must be 2 or more and --rounds 1 or more, got {options.jobs} and {options.rounds}")
    return options


def main() -> None:
    options = parse_arguments()
    frames, height, width = options.shape.split("x")
    size = {"num_frames": frames, "height": height, "width": width, "num_inference_steps": str(options.steps)}
    with tempfile.TemporaryDirectory(prefix="animatic-bench-", ignore_cleanup_errors=True) as name:
        # Others may pass through: when we are root, Postgres runs as another user.
        folder = Path(name)
        folder.chmod(0o711)
        with (
            open_service(folder, models=f"double,{options.models}") as site,
            site.running(site.program("maintainer", "worker.maintain"), ready=""),
        ):
            for model in options.models.split(","):
                found: dict[str, list[dict[str, float]]] = {mode: [] for mode in _MODES}
                for number in range(options.rounds):
                    for mode in list(_MODES) if number % 2 == 0 else reversed(list(_MODES)):
                        print(f"{model}, {mode}", file=sys.stderr, flush=True)
                        fields = {} if model == "tiny" else size
                        found[mode].append(summarize(measure(site, model, fields, options.jobs, _MODES[mode])))
                _keep(options, model, found)


def _keep(options: argparse.Namespace, model: str, found: dict[str, list[dict[str, float]]]) -> None:
    """Write one model's part of the result, beside what others left there."""
    kept = json.loads(options.result.read_text(encoding="utf-8")) if options.result.exists() else {}
    size = f" --steps {options.steps} --shape {options.shape}" if model != "tiny" else ""
    name = find_entry(model).name
    shown = model if model == name else f"{name}=DIRECTORY"
    kept[name] = {
        "command": f"python -m bench.worker_throughput --models {shown} --jobs {options.jobs} "
        f"--rounds {options.rounds}{size}",
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
        "rounds": found,
    }
    options.result.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: kept[name]}, indent=2))


if __name__ == "__main__":
    main()
