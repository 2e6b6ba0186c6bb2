"""The benchmark of the service runs in its smallest form, and says all that it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SMALLEST = {
    "--requests": "2",
    "--window": "0.2",
    "--streams": "3",
    "--jobs": "3",
    "--pickups": "3",
    "--rows": "0,50",
    "--rounds": "2",
    "--claim-seconds": "0.1",
    "--claimers": "1,2",
    "--cells": "10",
}


def test_the_smallest_form_measures_every_part(tmp_path: Path) -> None:
    result = tmp_path / "service.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench.service", *chain(*SMALLEST.items()), "--result", str(result)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(result.read_text())
    assert {"Animatic", "bare Flask, file as it came"} <= found["POST of a photo"].keys() & found["GET of a job"].keys()
    assert found["beside idle streams"]["streams that ended in order"] == 3
    assert {"Animatic", "bare Celery"} <= found["no-op jobs, one worker"].keys()
    assert found["from 202 to start on an idle worker"].keys() == {"Animatic", "bare Flask + Celery"}
    assert found["claims per s by rows and workers"]["50"].keys() == {"1", "2"}
    assert found["an experiment, at 50 ended jobs"]["cells"] == 10
    steps = found["plans at the most rows"]
    assert steps.keys() == {"accept", "claim", "sweep", "reap", "list"}
    assert all(steps.values())
    for row in ("| `POST` of a photo", "| idle between two no-op jobs |", "| 50 |", "| an experiment, cells |"):
        assert row in done.stdout
