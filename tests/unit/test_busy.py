"""How busy a device is."""

from __future__ import annotations

from contextlib import suppress

from worker.busy import BusyTime


def test_busy_time_counts_what_is_under_way_and_what_failed_but_no_pauses() -> None:
    now = 10.0
    busy = BusyTime(lambda: now)
    assert busy.seconds == 0
    with busy.counted():
        now += 2
        assert busy.seconds == 2
    now += 5
    with suppress(RuntimeError), busy.counted():
        now += 1
        raise RuntimeError
    now += 5
    assert busy.seconds == 3
