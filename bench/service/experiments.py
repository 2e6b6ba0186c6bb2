"""What a large experiment costs itself, and everybody else who claims meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import text
from sqlalchemy.orm import Session

from bench.service.history import make_steps, median_ratios, medians
from bench.service.tables import MODEL, Database, new_job
from shared.catalogue import find_entry
from shared.experiments.accept import NewExperiment, Point, insert_experiment
from shared.experiments.resource import tally_cells
from shared.experiments.steer import cancel_experiment, pause_experiment, resume_experiment
from shared.quotas import Quotas
from shared.tables import Experiment

Answer = TypeVar("Answer")

_READS = 20


def measure_experiment(without: Database, beside: Database, *, cells: int, rounds: int) -> dict[str, Any]:
    """Claims with and without an experiment that waits, in turn; and what is done to the experiment as a whole.

    Args:
        without, beside: alike; the experiment is made in the second.
    """
    new = _grid(beside, cells)
    accept_ms, experiment = _timed(
        beside, lambda session: insert_experiment(session, new, _QUOTAS, public_url="http://bench")
    )
    with beside.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    read_ms = min(_timed(beside, lambda session: tally_cells(session, [experiment]))[0] for _ in range(_READS))
    for number in range(rounds + 5):
        for database in (without, beside) if number % 2 else (beside, without):
            step = make_steps(database)["claim"]
            started = time.perf_counter()
            step()
            if number >= 5:  # the first ones open connections
                database.times_ms["claim"].append(1000 * (time.perf_counter() - started))
    owned = Experiment.id == experiment.id
    steps: dict[str, Callable[[Session], object]] = {
        "pause": lambda session: pause_experiment(session, owned),
        "resume": lambda session: resume_experiment(session, owned),
        "cancel": lambda session: cancel_experiment(session, owned, public_url="http://bench"),
    }
    return {
        "cells": cells,
        "accept ms": round(accept_ms, 1),
        "count its cells ms": round(read_ms, 2),
        **{f"{name} ms": round(_timed(beside, step)[0], 1) for name, step in steps.items()},
        "claim ms without it": medians(without)["claim"],
        "claim ms beside it": medians(beside)["claim"],
        "claim beside it to without": median_ratios(without, beside)["claim"],
    }


_QUOTAS = Quotas(queued_jobs_max=10**9)


def _grid(database: Database, cells: int) -> NewExperiment:
    image = new_job(database.caller).input
    defaults = find_entry(MODEL).defaults
    points = [Point(defaults.model_copy(update={"seed": seed}), []) for seed in range(cells)]
    return NewExperiment(
        tenant_id=database.caller,
        name="bench",
        model=MODEL,
        images=[("image_0", image)],
        grid={"seed": list(range(cells))},
        base={},
        points=points,
    )


def _timed(database: Database, work: Callable[[Session], Answer]) -> tuple[float, Answer]:
    started = time.perf_counter()
    with database.sessions.begin() as session:
        answer = work(session)
    return 1000 * (time.perf_counter() - started), answer
