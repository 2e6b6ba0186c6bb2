"""F10: clocks of workers and of a maintainer that are two hours off."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from trial import Trial

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="libfaketime's wheel is for Linux")


@contextmanager
def clock(hours: int) -> Iterator[None]:
    """For processes that are started meanwhile; their monotonic clock stays right, as a wrong wall clock leaves it."""
    spec = importlib.util.find_spec("libfaketime")
    assert spec is not None
    assert spec.origin is not None
    library = Path(spec.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(library))
        patch.setenv("FAKETIME", f"{hours * 3600:+d}")
        patch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        yield


def test_wrong_clocks_reap_nothing_early_and_run_nothing_twice(trial: Trial) -> None:
    service = trial.service
    api = service.start("api.serve")
    with clock(+2):
        service.start_maintainer()
        ahead = service.start("worker", model="double")
    with clock(-2):
        behind = service.start("worker", model="double")
    service.await_api(api)
    service.await_worker(ahead)
    service.await_worker(behind)
    for worker, hours in ((ahead, 2), (behind, -2)):
        ready = next(line for line in worker.log.read_text().splitlines() if " ready: " in line)
        skew = datetime.fromisoformat(ready[:19]).astimezone() - datetime.now(UTC)
        assert abs(skew - timedelta(hours=hours)) < timedelta(minutes=10)  # the spawned child lives in it too
    # Longer than a lease, and with others waiting for redelivery.
    jobs = [trial.submit(num_inference_steps=90) for _ in range(2)] + [trial.submit() for _ in range(6)]
    for job in jobs:
        trial.await_status(job, "succeeded")
        assert trial.outcomes(job) == ["succeeded"]
    assert len({attempt.worker_id for job in jobs for attempt in trial.attempts(job)}) == 2
    trial.judge()
