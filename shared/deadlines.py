"""Keeping a whole exchange within one span of time, where each of its steps only knows its own timeout."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


class Deadline:
    """A point in time by the monotonic clock."""

    def __init__(self, timeout_s: float) -> None:
        self._start = time.monotonic()
        self._timeout_s = timeout_s

    def elapsed(self) -> float:
        return time.monotonic() - self._start

    def left(self) -> float:
        """Seconds left, more than 0.

        Raises:
            TimeoutError: none are.
        """
        left = self._timeout_s - self.elapsed()
        if left <= 0:
            raise TimeoutError
        return left


def call_within(deadline: Deadline, call: Callable[[], T]) -> T:
    """Wait for a call that cannot be interrupted, such as a name lookup, no longer than the deadline.

    A call that takes longer is left behind in its daemon thread, and its result is dropped.

    Raises:
        TimeoutError: the deadline passed.
    """
    results: queue.SimpleQueue[tuple[T, None] | tuple[None, BaseException]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((call(), None))
        except BaseException as error:
            results.put((None, error))

    threading.Thread(target=run, name="call-within", daemon=True).start()
    try:
        value, error = results.get(timeout=deadline.left())
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]  # no error: a value


class Watchdog:
    """Cuts a connection when the time is up: a socket's own timeout begins anew with every byte that drips in."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        #: a cut can look like the regular end of an answer, so this must be asked afterwards.
        self.has_fired = False
        self._sock = sock
        self._is_armed = True
        #: held while cutting, so that the socket is not closed, and its number given to another, meanwhile.
        self._lock = threading.Lock()
        self._timer = threading.Timer(deadline.left(), self._cut)
        self._timer.daemon = True
        self._timer.start()

    def disarm(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._is_armed = False

    def _cut(self) -> None:
        with self._lock:
            if self._is_armed:
                self.has_fired = True
                with suppress(OSError):
                    # Not SSLSocket's own method: it drops the TLS layer first, and a write could go out in the clear.
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
