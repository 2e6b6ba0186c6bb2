"""The one place that decides what becomes of an attempt that did not succeed: ended, tried again, given back."""

from __future__ import annotations

import logging
import time
from contextlib import suppress

from sqlalchemy.orm import Session

from shared.database import translated_errors
from shared.errors import AnimaticError, DatabaseError, GenerationError, StorageError, TransientError
from shared.ids import show_id
from shared.jobs.end import end_job
from shared.jobs.lease import note_stale
from shared.jobs.requeue import requeue_job, retry_pause_s
from shared.objects.store import delete_prefix
from shared.states import AttemptOutcome, JobStatus
from worker.attempt import Attempt
from worker.lease import AttemptStopped, StopReason

log = logging.getLogger(__name__)


def settle_attempt(attempt: Attempt, error: Exception) -> None:
    """Write down what an error means for the job, fenced; if the attempt is no longer ours, write nothing."""
    claim = attempt.claim
    name = f"{show_id('job', claim.job_id)} attempt {claim.attempt}"
    try:
        match error:
            case AttemptStopped(reason=StopReason.CUT_OFF) if _release_after_outage(attempt):
                log.info("%s is released after an outage of Postgres", name)
            case AttemptStopped(reason=StopReason.LOST | StopReason.CUT_OFF | StopReason.STALLED):
                log.warning("%s was lost; whatever becomes of the job is no longer ours", name)
                _note_stale(attempt)
                return
            case AttemptStopped(reason=StopReason.CANCEL):
                log.info("%s is canceled", name)
                _end(attempt, JobStatus.CANCELED, reason="canceled")
            case AttemptStopped():
                log.info("%s is released", name)
                _requeue(attempt, AttemptOutcome.RELEASED, reason="released")
            case GenerationError():
                log.warning("%s failed: %s", name, error)
                _end(attempt, JobStatus.FAILED, reason=error.code, error=error)
            case TransientError():
                log.warning("%s: %s", name, error)
                _retry(attempt, error)
            case _:
                log.error("%s raised an unexpected error", name, exc_info=error)
                _retry(attempt, AnimaticError("an unexpected error in the worker; its log has the details"))
    except AttemptStopped:
        log.warning("%s: lost while its end was being written", name)
        _note_stale(attempt)
    _discard_uploads(attempt)


def _release_after_outage(attempt: Attempt) -> bool:
    """Give the job back if nobody has taken it: an outage of Postgres must not count as this attempt's loss.

    The reaper waits one lease after such an outage, which is the time to do this in.
    """
    pause_s = 0.2
    while attempt.lease.remaining_s > 0:
        try:
            with translated_errors(), attempt.services.sessions.begin() as session:
                job = requeue_job(
                    session,
                    attempt.claim.holds(),
                    AttemptOutcome.RELEASED,
                    public_url=attempt.services.settings.public_url,
                    reason="released",
                )
            return job is not None
        except DatabaseError:
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)
    return False


def _retry(attempt: Attempt, error: AnimaticError) -> None:
    settings = attempt.services.settings
    failures = attempt.claim.transient_failures
    if failures >= settings.max_transient_failures:
        _end(attempt, JobStatus.FAILED, reason=error.code, error=error)
        return
    pause_s = retry_pause_s(failures, base_s=settings.retry_base_s, max_s=settings.retry_max_s)
    _requeue(attempt, AttemptOutcome.RETRIED, reason="retry", delay_s=pause_s, error=error)


def _note_stale(attempt: Attempt) -> None:
    """Best effort: for the metrics and for people."""
    with suppress(DatabaseError), translated_errors(), attempt.services.sessions.begin() as session:
        note_stale(session, attempt.claim)


def _end(attempt: Attempt, status: JobStatus, *, reason: str, error: AnimaticError | None = None) -> None:
    def write(session: Session) -> None:
        ended = end_job(
            session,
            attempt.claim.holds(),
            status,
            public_url=attempt.services.settings.public_url,
            reason=reason,
            error_code=error.code if error else None,
            error_message=str(error) if error else None,
        )
        if ended is None:
            note_stale(session, attempt.claim)

    attempt.persist(write)


def _requeue(
    attempt: Attempt,
    outcome: AttemptOutcome,
    *,
    reason: str,
    delay_s: float = 0,
    error: AnimaticError | None = None,
) -> None:
    def write(session: Session) -> None:
        requeued = requeue_job(
            session,
            attempt.claim.holds(),
            outcome,
            public_url=attempt.services.settings.public_url,
            reason=reason,
            delay_s=delay_s,
            error_code=error.code if error else None,
            error_message=str(error) if error else None,
        )
        if requeued is None:
            note_stale(session, attempt.claim)

    attempt.persist(write)


def _discard_uploads(attempt: Attempt) -> None:
    """Best effort; nobody looks there any more, since a result names its winning attempt."""
    try:
        delete_prefix(attempt.services.store, attempt.prefix)
    except StorageError as error:
        log.warning("left objects of a losing attempt behind: %s", error)
