"""The generate use case: claim → read input → prepare → generate → encode → upload → finish. No Celery, no torch.

From `encode` on, a thread goes on with the attempt (worker/finisher.py), and the next job is claimed meanwhile.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import UUID

from sqlalchemy import Engine

from shared.database import translated_errors
from shared.errors import DeviceLostError, StorageError, UndecodableImageError
from shared.ids import show_id
from shared.jobs.claim import Claim, claim_job
from shared.objects import ObjectMissingError
from shared.scratch import scratch_folder
from shared.states import Phase
from worker.attempt import Attempt, Services
from worker.busy import BusyTime
from worker.finisher import Finisher
from worker.finishing import finish_attempt
from worker.lease import Lease
from worker.media import prepare_image
from worker.pipeline import Generation, PipelineInfo, VideoPipeline
from worker.settle import settle_attempt

#: for the frames and the video of one job, at the largest size and as PNG.
_ROOM_BYTES = 512 * 2**20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generator:
    """Runs jobs of one model on one loaded pipeline."""

    services: Services
    engine: Engine
    pipeline: VideoPipeline
    model: str
    worker_id: UUID
    finisher: Finisher = field(default_factory=Finisher)
    busy: BusyTime = field(default_factory=BusyTime)

    def run_next(self) -> bool:
        """Claim the best job, generate its frames and hand them over to be finished, or settle what went wrong.

        A job that was lost before has the process to itself from there: if it is lost again, no other is to blame.

        Returns:
            False: there was none to claim.

        Raises:
            StorageError: the object store is not healthy, or the disk too full, so nothing was claimed.
            DatabaseError: Postgres is not answering, so nothing was claimed.
            DeviceLostError: the process must end; its job was given back.
        """
        self.services.store.check()
        settings = self.services.settings
        with ExitStack() as held:
            # Before the claim: a worker without room must not take jobs only to lose them.
            folder = held.enter_context(_make_folder(results=2 if self.finisher.is_busy else 1))
            claim = self._claim()
            if claim is None:
                return False
            log.info("%s attempt %d starts", show_id("job", claim.job_id), claim.attempt)
            lease = held.enter_context(Lease(self.engine, claim, settings))
            attempt = Attempt(self.services, claim, lease, folder)
            try:
                generation = self._generate(attempt)
                self.finisher.await_turn(attempt)
            except Exception as error:  # the outermost boundary of an attempt's first half
                settle_attempt(attempt, error)
                if isinstance(error, DeviceLostError):
                    self.finisher.join()  # the result before this one needs no device
                    raise
                return True
            self.finisher.start(attempt, partial(_finish, attempt, generation, self.pipeline.info, held.pop_all()))
        if claim.was_lost or not settings.overlap:
            self.finisher.join()
        return True

    def _claim(self) -> Claim | None:
        settings = self.services.settings
        with translated_errors(), self.services.sessions.begin() as session:
            return claim_job(
                session,
                model=self.model,
                worker_id=self.worker_id,
                lease_s=settings.lease_s,
                attempt_deadline_s=settings.attempt_deadline_s,
                public_url=settings.public_url,
            )

    def _generate(self, attempt: Attempt) -> Generation:
        attempt.lease.progress(Phase.FETCH)
        with attempt.timed("fetch"):
            try:
                data = self.services.store.get(attempt.claim.input_key)
            except ObjectMissingError:
                raise UndecodableImageError("the job's image is no longer in the object store") from None
            if hashlib.sha256(data).hexdigest() != attempt.claim.input_sha256:
                raise StorageError("the object store gave another image than the one that was accepted")
            image = prepare_image(data, attempt.claim.params)
        with self.busy.counted():
            generation = self.pipeline.generate(image, attempt.claim.params, attempt.lease.progress)
        attempt.timings_s |= generation.timings_s
        return generation


def _finish(attempt: Attempt, generation: Generation, info: PipelineInfo, held: ExitStack) -> None:
    """The second half of an attempt.

    Args:
        held: its lease and folder, closed at the end.
    """
    with held:
        try:
            finish_attempt(attempt, generation, info)
            log.info("%s attempt %d succeeded", show_id("job", attempt.claim.job_id), attempt.claim.attempt)
        except Exception as error:  # the outermost boundary of an attempt
            settle_attempt(attempt, error)


@contextmanager
def _make_folder(*, results: int) -> Iterator[Path]:
    """A folder on the worker's disk for one attempt.

    Args:
        results: for how many there must be room: what is being finished has not all been written yet.

    Raises:
        StorageError: there is no room.
    """
    with ExitStack() as held:
        try:
            folder = held.enter_context(scratch_folder("attempt"))
        except OSError as error:
            raise StorageError(f"cannot make a temporary folder: {error.strerror}") from error
        free, needed = shutil.disk_usage(folder).free, results * _ROOM_BYTES
        if free < needed:
            raise StorageError(f"the temporary folder's disk has {free} bytes left; {needed} are needed")
        yield folder
