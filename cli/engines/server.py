"""What Postgres and Redis have in common here: a folder, a port that stays the same, one child."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from cli.engines.processes import Child, free_port
from shared.errors import StartupError
from shared.exit_codes import ExitCode

_STARTS = 4


class Server(ABC):
    """One server with its data in a folder; `start` must come first."""

    #: how people call it.
    name: ClassVar[str]

    def __init__(self, directory: Path, *, log: Path | None = None) -> None:
        """
        Args:
            directory: made if absent.
            log: default is `postgres.log` or `redis.log` in the directory.
        """
        self.directory = directory.absolute()
        self.log = log or self.directory / f"{self.name.lower()}.log"
        self._port: int | None = None
        self._child: Child | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """With its password, for whoever runs on this machine."""

    @abstractmethod
    def start(self) -> None:
        """Start it and wait until it answers; make its folder first if that is absent.

        Raises:
            StartupError: it cannot run here, or does not come up; the message says why.
        """

    @property
    def child(self) -> Child:
        if self._child is None:
            raise RuntimeError(f"{self.name} has not been started")
        return self._child

    @property
    def pid(self) -> int:
        return self.child.pid

    def stop(self) -> None:
        """End it in order, with all written."""
        self.child.stop()

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self.child.kill()

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same port."""
        self.child.stop()
        self.start()

    def _serve(self, launch: Callable[[int], Child], await_ready: Callable[[Child, int], bool]) -> None:
        """Start the child, on another port if somebody has taken the first.

        Args:
            launch: starts it on this port.
            await_ready: whether it comes up there.

        Raises:
            StartupError: it does not come up.
        """
        for remaining in reversed(range(_STARTS)):
            port = self._port or free_port()
            child = launch(port)
            if await_ready(child, port):
                self._port, self._child = port, child
                return
            child.kill()
            # Somebody may have taken the port in between; a fixed one's last holder may be about to leave.
            if not remaining or "Address already in use" not in child.log_tail():
                raise StartupError(
                    f"{self.name} did not start; the end of {self.log} says:\n{child.log_tail()}",
                    exit_code=ExitCode.UNAVAILABLE,
                )
            time.sleep(0.5)


@contextmanager
def running(server: Server) -> Iterator[str]:
    """A server from start to stop; yields its URL."""
    server.start()
    try:
        yield server.url
    finally:
        server.stop()
