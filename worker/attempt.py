"""One try at a job, as it passes from stage to stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from sqlalchemy.orm import Session

from shared.database import Sessions, translated_errors
from shared.errors import DatabaseError
from shared.jobs.claim import Claim
from shared.jobs.resource import job_prefix
from shared.objects import ObjectStore
from shared.settings import Settings
from worker.lease import AttemptStopped, Lease, StopReason

Answer = TypeVar("Answer")

#: when an attempt has outlived its own deadline by this much, its process is ended.
HARD_LIMIT_MARGIN_S = 60


@dataclass(frozen=True)
class Services:
    """What every attempt works with; made once per process."""

    settings: Settings
    sessions: Sessions
    store: ObjectStore


@dataclass
class Attempt:
    """A claimed job with its own lease, folder and timings: nothing of it is shared with the next attempt."""

    services: Services
    claim: Claim
    lease: Lease
    #: on the worker's disk; a finished result waits here while the store is down.
    folder: Path
    timings_s: dict[str, float] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """Where this attempt's objects go; no other attempt writes there."""
        return f"{job_prefix(self.claim.job_id)}attempts/{self.claim.attempt}/"

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.timings_s[stage] = time.monotonic() - start

    def persist(self, write: Callable[[Session], Answer]) -> Answer:
        """Run one transaction, and again while Postgres does not answer, until the attempt's deadline.

        The statement must be fenced. So it may be tried for longer than the lease: if somebody else has taken the job
        meanwhile, or only the answer to COMMIT was lost, it finds nothing. And after an outage of Postgres nobody has,
        since the reaper waits one lease: a result that is stored already must not be made again.

        Raises:
            AttemptStopped: Postgres did not answer until the deadline.
        """
        pause_s = 0.2
        while True:
            try:
                with translated_errors(), self.services.sessions.begin() as session:
                    return write(session)
            except DatabaseError:
                if self.lease.remaining_s <= 0:
                    raise AttemptStopped(StopReason.LOST) from None
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 2.0)
