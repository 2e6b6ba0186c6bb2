"""The whole OpenAPI document, held against the running service: Schemathesis with all its checks, and no failure."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import BOOTSTRAP_KEY, Service

TESTS = Path(__file__).parents[1]
#: per operation and phase; more: CONTRACT_EXAMPLES=100.
EXAMPLES = os.environ.get("CONTRACT_EXAMPLES", "5")
#: enough for every rule; a thousand cells would only take time.
CELLS_MAX = 24


# On a busy machine a thousand requests and more take their time.
@pytest.mark.timeout(600)
def test_the_service_keeps_its_own_contract(service: Service) -> None:
    settings = {
        "models": ("double",),
        "rate_limit_per_minute": 0,
        "queued_jobs_max": 10**6,
        "experiment_cells_max": CELLS_MAX,
        # Schemathesis sends the same key with each of its requests.
        "idempotency_ttl_s": 0.001,
    }
    service.start_api(**settings)
    # Streams and long polls wait for a job's end, and redelivery needs one that has ended.
    service.start_maintainer(**settings, queue_ttl_s=0.1, maintain_interval_s=0.1)
    # Whatever is cut off is found by its own tests; a run of the same seed asks the same.
    arguments = ["--checks", "all", "--max-examples", EXAMPLES, "--seed", "1", "--continue-on-failure", "--no-shrink"]
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json"),
            *arguments,
            *("-H", f"Authorization: Bearer {BOOTSTRAP_KEY}"),
        ],
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "contract_hooks",
            "PYTHONPATH": str(TESTS),
            "CONTRACT_CELLS_MAX": str(CELLS_MAX),
            "COLUMNS": "120",
        },
        cwd=service.logs,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    [cases] = re.findall(r"(\d+) generated", run.stdout)
    [tested] = re.findall(r"Tested: (\d+)", run.stdout)
    # The key was not revoked by its own test, after which everything would be a 401.
    assert service.request("GET", "/v1/keys").status == 200
    log = service.processes[0].log.read_text()
    assert "Traceback" not in log
    print(f"\nSchemathesis: {cases} cases, {tested} operations")
