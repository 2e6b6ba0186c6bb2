"""Ctrl-C, SIGTERM and SIGHUP as a wish that is looked at between steps."""

from __future__ import annotations

import os
import signal
from types import FrameType


class Interrupts:
    """Notes the first signal; at the second one this process ends at once, and its children with it.

    A flag and not an exception: one raised between the start of a child and the note of its pid would leave it behind.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    @property
    def exit_code(self) -> int:
        """As shells say it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 0 if self.received is None else 128 + self.received

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            # The watcher and the death signal end the children.
            os._exit(128 + number)
        self.received = signal.Signals(number)
