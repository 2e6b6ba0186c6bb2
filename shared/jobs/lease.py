"""Heartbeat: one fenced statement writes progress, extends the lease and brings back the stop flags."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from shared.database import db_now
from shared.jobs.claim import Claim
from shared.states import AttemptOutcome, Phase
from shared.tables import Attempt, Job, Worker

#: Postgres notifies here, with the id of a job or a worker, when a flag was set that a heartbeat should fetch at once.
STOP_CHANNEL = "animatic_stop"


@dataclass(frozen=True)
class Flags:
    """What the rest of the world wants of a running attempt."""

    cancel: bool
    #: the worker is stopping and its grace is over: give the job back.
    release: bool


def extend_lease(
    session: Session, claim: Claim, *, phase: Phase, step: int, total_steps: int, lease_s: float
) -> Flags | None:
    """Beat once. None: the attempt is no longer ours, and all work on it must stop.

    Its transaction does not wait for the disk, so it must do nothing else: a crash of Postgres may forget the last
    beats, but every reaper waits one lease after it.
    """
    drain_deadline = select(Worker.drain_deadline_at).where(Worker.id == Job.worker_id).correlate(Job).scalar_subquery()
    row = session.execute(
        update(Job)
        .where(claim.holds())
        .values(
            phase=phase,
            step=step,
            total_steps=total_steps,
            lease_expires_at=db_now() + timedelta(seconds=lease_s),
        )
        .returning(
            Job.cancel_requested_at.is_not(None),
            drain_deadline <= db_now(),
            # Read when the transaction commits, and forgotten after it.
            func.set_config("synchronous_commit", "off", True),
        )
        .execution_options(synchronize_session=False)
    ).one_or_none()
    return None if row is None else Flags(cancel=bool(row[0]), release=bool(row[1]))


def note_stale(session: Session, claim: Claim) -> None:
    """Write down that an attempt that was lost was alive after all: its worker came back with it, and was refused.

    Changes nothing of an attempt that ended otherwise, such as by this worker itself, with only the answer lost.
    """
    session.execute(
        update(Attempt)
        .where(
            Attempt.job_id == claim.job_id,
            Attempt.attempt == claim.attempt,
            Attempt.outcome == AttemptOutcome.LOST,
            Attempt.stale_at.is_(None),
        )
        .values(stale_at=db_now())
        .execution_options(synchronize_session=False)
    )
