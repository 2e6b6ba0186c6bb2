"""How processes end: with their parent, and in order."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent dies, however that dies. Only on Linux.

    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")
    if os.getppid() != parent:
        os.kill(os.getpid(), number)  # it died in between


def end_in_order_on_sigterm() -> None:
    """Have SIGTERM end this process through its open blocks, which clean up, until a server's own handler is there."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, _frame: Any) -> None:
    sys.exit(128 + number)
