"""What a call costs, kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

_ROWS = 45


def profile_call(call: Callable[[], object]) -> None:
    """Run once under the profiler and print the kernels that cost most, in order."""
    cuda = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
        call()
    events = [
        event for event in profiler.key_averages() if not cuda or event.device_type == torch.autograd.DeviceType.CUDA
    ]
    total = sum(_cost(event, cuda) for event in events)
    print(f"{total / 1e6:.3f} s on the device")
    for event in sorted(events, key=lambda event: -_cost(event, cuda))[:_ROWS]:
        cost = _cost(event, cuda)
        print(f"{cost / 1e3:10.1f} ms {100 * cost / total:5.1f} % {event.count:6} × {event.key[:150]}")


def _cost(event: object, cuda: bool) -> float:
    return float(getattr(event, "self_device_time_total" if cuda else "self_cpu_time_total"))
