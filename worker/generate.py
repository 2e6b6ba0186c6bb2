"""The generate use case: claim → read input → prepare → generate → encode → upload → finish. No Celery, no torch."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from sqlalchemy import Engine

from shared.database import translated_errors
from shared.errors import (
    StorageError,
    UndecodableImageError,
)
from shared.ids import show_id
from shared.jobs.claim import claim_job
from shared.objects import ObjectMissingError
from shared.states import Phase
from worker.attempt import Attempt, Services
from worker.finishing import finish_attempt
from worker.lease import Lease
from worker.media import prepare_image
from worker.pipeline import Generation, VideoPipeline
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

    def run_next(self) -> bool:
        """Claim the best job and run it to whatever end this attempt has. False: there was none to claim.

        Raises:
            StorageError: the object store is not healthy, so nothing was claimed.
            DatabaseError: Postgres is not answering, so nothing was claimed.
        """
        self.services.store.check()
        settings = self.services.settings
        # Before the claim: a worker without room must not take jobs only to lose them.
        with _make_folder() as folder:
            with translated_errors(), self.services.sessions.begin() as session:
                claim = claim_job(
                    session,
                    model=self.model,
                    worker_id=self.worker_id,
                    lease_s=settings.lease_s,
                    attempt_deadline_s=settings.attempt_deadline_s,
                    public_url=settings.public_url,
                )
            if claim is None:
                return False
            name = show_id("job", claim.job_id)
            log.info("%s attempt %d starts", name, claim.attempt)
            with Lease(self.engine, claim, settings) as lease:
                attempt = Attempt(self.services, claim, lease, Path(folder))
                try:
                    finish_attempt(attempt, self._generate(attempt), self.pipeline.info)
                    log.info("%s attempt %d succeeded", name, claim.attempt)
                except Exception as error:  # the outermost boundary of an attempt
                    settle_attempt(attempt, error)
        return True

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
        return self.pipeline.generate(image, attempt.claim.params, attempt.lease.progress)


@contextmanager
def _make_folder() -> Iterator[str]:
    """A folder on the worker's disk for one attempt.

    Raises:
        StorageError: there is no room.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="animatic-", ignore_cleanup_errors=True)
    except OSError as error:
        raise StorageError(f"cannot make a temporary folder: {error.strerror}") from error
    with folder as name:
        if (free := shutil.disk_usage(name).free) < _ROOM_BYTES:
            raise StorageError(f"the temporary folder's disk has {free} bytes left; a job needs {_ROOM_BYTES}")
        yield name
