"""Track: log finished experiments to Weights & Biases. What happens there never changes a job."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast
from uuid import UUID

from sqlalchemy import and_, select, update
from sqlalchemy.orm import Session

from shared.database import Sessions, db_now, translated_errors
from shared.errors import TransientError
from shared.ids import show_id
from shared.objects import ObjectStore
from shared.scratch import scratch_folder
from shared.settings import Settings
from shared.tables import Experiment, ExperimentCell, Job
from worker.tracking.child import TrackingError, check_installed, run_child
from worker.tracking.layout import lay_out
from worker.tracking.order import Order, Reported, Run

#: of one round: their videos are on this machine's disk meanwhile.
_RUNS_AT_ONCE = 10
#: s that a claim lasts beyond the child's time: fetching videos, ending the child.
_CLAIM_MARGIN_S = 300
_RETRY_MAX_S = 3_600
_WARNING = "not logged to Weights & Biases: "

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Claim:
    """An experiment that is ours to log, fenced by the number of its tries."""

    experiment_id: UUID
    tries: int


class _LostClaimError(Exception):
    """The experiment is no longer ours to log."""


def track_experiments(sessions: Sessions, store: ObjectStore, settings: Settings, stopping: threading.Event) -> int:
    """Log one experiment that is due, or as many of its runs as one round takes. Returns how many runs were logged.

    Raises:
        DatabaseError: Postgres is not answering; the claim runs out, and the rest is logged then.
    """
    claim = _claim_due(sessions, settings)
    if claim is None:
        return 0
    logged = 0
    try:
        check_installed()
        with scratch_folder("wandb") as folder:
            order = _take_order(sessions, store, settings, claim, folder)
            if order.runs:
                with closing(run_child(order, settings, stopping)) as reports:
                    for reported in reports:
                        _note_run(sessions, claim, reported)
                        logged += 1
        _note_end(sessions, claim)
    except _LostClaimError:
        log.info("%s: somebody else logs it", show_id("exp", claim.experiment_id))
    except TransientError as error:
        _note_failure(sessions, settings, claim, TrackingError(str(error), permanent=False))
    except TrackingError as error:
        _note_failure(sessions, settings, claim, error)
    return logged


def _claim_due(sessions: Sessions, settings: Settings) -> _Claim | None:
    due = (
        select(Experiment.id)
        .where(
            Experiment.wandb_status == "pending",
            Experiment.finished_at.is_not(None),
            Experiment.wandb_next_try_at <= db_now(),
        )
        .order_by(Experiment.wandb_next_try_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    claim_s = settings.wandb_timeout_s + _CLAIM_MARGIN_S
    with translated_errors(), sessions.begin() as session:
        row = session.execute(
            update(Experiment)
            .where(Experiment.id == due.scalar_subquery())
            .values(wandb_tries=Experiment.wandb_tries + 1, wandb_next_try_at=db_now() + timedelta(seconds=claim_s))
            .returning(Experiment.id, Experiment.wandb_tries)
            .execution_options(synchronize_session=False)
        ).one_or_none()
    return None if row is None else _Claim(row[0], row[1])


def _take_order(sessions: Sessions, store: ObjectStore, settings: Settings, claim: _Claim, folder: Path) -> Order:
    with translated_errors(), sessions() as session:
        experiment = session.get_one(Experiment, claim.experiment_id)
        runs = _runs_left(session, experiment)[:_RUNS_AT_ONCE]
        chosen = experiment.wandb or {}
    order = Order(
        project=chosen.get("project") or settings.wandb_project,
        entity=chosen.get("entity") or settings.wandb_entity,
        mode=settings.wandb_mode,
        folder=Path(settings.wandb_dir).absolute(),
        timeout_s=settings.wandb_timeout_s,
        videos=folder,
        report=folder / "report.jsonl",
        runs=runs,
    )
    for run in runs:
        for video in run.videos:
            order.video_path(run, video).write_bytes(store.get(video.object_key))
    return order


def _runs_left(session: Session, experiment: Experiment) -> Sequence[Run]:
    cells = session.execute(
        select(ExperimentCell, Job)
        .join(Job, Job.id == ExperimentCell.job_id)
        .where(ExperimentCell.experiment_id == experiment.id)
        .order_by(ExperimentCell.index)
    )
    runs = lay_out(experiment, [(cell, job) for cell, job in cells])
    return [run for run in runs if run.id not in experiment.wandb_run_ids]


def _note_run(sessions: Sessions, claim: _Claim, reported: Reported) -> None:
    with translated_errors(), sessions.begin() as session:
        experiment = _lock(session, claim)
        experiment.wandb_run_ids = [*experiment.wandb_run_ids, str(reported.run_id)]
        if reported.url is not None:
            experiment.wandb_urls = [*experiment.wandb_urls, reported.url]


def _note_end(sessions: Sessions, claim: _Claim) -> None:
    with translated_errors(), sessions.begin() as session:
        experiment = _lock(session, claim)
        experiment.wandb_error = None
        experiment.warnings = _other_warnings(experiment)
        if _runs_left(session, experiment):
            experiment.wandb_tries = 0
            experiment.wandb_next_try_at = _in(session, 0)
        else:
            experiment.wandb_status = "logged"
    log.info("%s: logged to Weights & Biases", show_id("exp", claim.experiment_id))


def _note_failure(sessions: Sessions, settings: Settings, claim: _Claim, error: TrackingError) -> None:
    gives_up = error.permanent or claim.tries >= settings.wandb_max_tries
    log.warning("%s: %s%s", show_id("exp", claim.experiment_id), _WARNING, error)
    with translated_errors(), sessions.begin() as session:
        experiment = _lock(session, claim)
        experiment.wandb_error = str(error)
        experiment.warnings = [*_other_warnings(experiment), f"{_WARNING}{error}"]
        if gives_up:
            experiment.wandb_status = "failed"
        else:
            pause_s = min(settings.wandb_retry_s * 2 ** (claim.tries - 1), _RETRY_MAX_S)
            experiment.wandb_next_try_at = _in(session, pause_s)


def _lock(session: Session, claim: _Claim) -> Experiment:
    """
    Raises:
        _LostClaimError: the claim has run out, or cells are being retried.
    """
    mine = and_(
        Experiment.id == claim.experiment_id,
        Experiment.wandb_tries == claim.tries,
        Experiment.wandb_status == "pending",
    )
    experiment = session.scalars(select(Experiment).where(mine).with_for_update(key_share=True)).one_or_none()
    if experiment is None:
        raise _LostClaimError
    return experiment


def _in(session: Session, pause_s: float) -> datetime:
    """An instant by the database's clock, as all of them."""
    return cast(datetime, session.scalar(select(db_now() + timedelta(seconds=pause_s))))


def _other_warnings(experiment: Experiment) -> list[str]:
    return [warning for warning in experiment.warnings if not warning.startswith(_WARNING)]
