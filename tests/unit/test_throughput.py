"""What the bench of a worker's throughput makes of the times of its jobs."""

from __future__ import annotations

from bench.worker_throughput import Run, summarize


def test_throughput_is_taken_from_the_first_start_to_the_last_result_and_gaps_on_the_device() -> None:
    runs = [Run(13.0, 16.0, 19.0), Run(10.0, 12.0, 15.0), Run(16.5, 18.0, 20.0)]
    assert summarize(runs) == {"jobs_per_hour": 1080.0, "device_busy": 0.8125, "gap_ms": 750.0}
