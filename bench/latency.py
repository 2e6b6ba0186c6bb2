"""How soon an idle worker takes a job, and how long it idles between two that wait.

`python -m bench.latency [--jobs N]` starts the embedded stack with the test double in place of a model, so that what
is left is the service's own. Both figures are differences of the database's times: acceptance to claim, end to next
claim.
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
from datetime import datetime
from pathlib import Path
from typing import Any

from cli.client import Client
from cli.follow import follow
from cli.stack import Stack, StackOptions
from cli.submit import create_job

PHOTO = Path(__file__).parent.parent / "docs" / "samples" / "rocket.jpg"
RESULT = Path(__file__).parent / "results" / "latency.json"
FIELDS = {"model": "double", "num_inference_steps": "1", "num_frames": "2", "width": "64", "height": "64"}


def instant(job: dict[str, Any], name: str) -> float:
    return datetime.fromisoformat(job[name]).timestamp()


def run(client: Client, count: int) -> list[dict[str, Any]]:
    """Submit so many at once, and wait for all."""
    jobs = [create_job(client, str(PHOTO), FIELDS) for _ in range(count)]
    return sorted(([*follow(client, job["id"])][-1] for job in jobs), key=lambda job: instant(job, "started_at"))


def summary(values: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=20)
    return {"p50_ms": round(1000 * statistics.median(values), 1), "p95_ms": round(1000 * cuts[-1], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=50)
    count = parser.parse_args().jobs
    with tempfile.TemporaryDirectory(prefix="animatic-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        stack = Stack(
            StackOptions("127.0.0.1", 0, folder / "data", "double"),
            say=lambda line: print(line, file=sys.stderr),
            is_stopping=lambda: False,
        )
        try:
            stack.start()
            with Client(stack.place) as client:
                run(client, 3)
                single = [run(client, 1)[0] for _ in range(count)]
                queued = run(client, count)
        finally:
            stack.stop()
            stack.erase()
    claims = [instant(job, "started_at") - instant(job, "created_at") for job in single]
    gaps = [
        instant(after, "started_at") - instant(before, "finished_at") for before, after in itertools.pairwise(queued)
    ]
    result = {
        "command": f"python -m bench.latency --jobs {count}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "accepted_to_claimed": summary(claims),
        "idle_between_queued_jobs": summary(gaps),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
