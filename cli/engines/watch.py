"""Ends processes whose parent has died. Run as a script, without site-packages, by `cli.engines.processes`.

The parent holds the other end of standard input and writes one line per child: `+ PID SIGNAL GRACE_S` when it
starts and `- PID` when it has ended. End of file means that the parent is gone, however it died: each child that
is still there gets its signal, the last started first, and SIGKILL after its grace.

On Linux the children also carry PR_SET_PDEATHSIG, which is faster; this process then ends what ignored that
signal, and the grandchildren. Elsewhere it is all there is.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

_POLL_S = 0.05


def main() -> None:
    # A Ctrl-C or a hangup of the terminal is for the parent; this process must outlive it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    children: dict[int, tuple[int, float]] = {}
    for line in sys.stdin:
        sign, pid, *rest = line.split()
        if sign == "+":
            children[int(pid)] = (int(rest[0]), float(rest[1]))
        else:
            children.pop(int(pid), None)
    _end(children)


def _end(children: dict[int, tuple[int, float]]) -> None:
    kill_at = {}
    for pid, (number, grace_s) in reversed(children.items()):
        if _leads_a_group(pid):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        kill_at[pid] = time.monotonic() + grace_s
    while kill_at:
        for pid, deadline in list(kill_at.items()):
            gone = not _leads_a_group(pid)
            if gone or time.monotonic() >= deadline:
                # Also when the leader is gone: its children are in the same group.
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
                del kill_at[pid]
        time.sleep(_POLL_S)


def _leads_a_group(pid: int) -> bool:
    # Every child was started as the leader of its own session; a stranger with the same pid hardly is one.
    try:
        return os.getsid(pid) == pid
    except (ProcessLookupError, PermissionError):
        return False


if __name__ == "__main__":
    main()
