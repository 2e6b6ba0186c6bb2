"""An experiment's cells as the outputs need them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cli.client import Client, path_to
from cli.patience import patiently

Experiment = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One image at one point of the grid, and the job that makes its video."""

    index: int
    image_index: int
    #: the image's name.
    image: str
    #: of the swept parameters.
    values: Mapping[str, Any]
    #: of the job.
    status: str
    #: none: it was deleted.
    job: dict[str, Any] | None
    reused: bool
    tries: int

    @property
    def result(self) -> dict[str, Any] | None:
        """The files of a job that succeeded, while they are kept."""
        return self.job["result"] if self.job else None

    @property
    def measures(self) -> dict[str, float]:
        """Those that could be taken."""
        measures = (self.job or {}).get("measures") or {}
        return {name: value for name, value in measures.items() if value is not None}

    def seconds(self, begin: str, end: str) -> float | None:
        """Between two instants of the job, such as `created_at` and `started_at`."""
        first, second = (self.job[begin], self.job[end]) if self.job else (None, None)
        if first is None or second is None:
            return None
        return (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds()


def read_experiment(client: Client, experiment_id: str) -> Experiment:
    """The experiment as it stands; waits for a service that is away."""
    found: Experiment = patiently(lambda: client.get(path_to("experiments", experiment_id)))
    return found


def read_cells(client: Client, experiment: Experiment) -> list[Cell]:
    """All cells, in their order; waits for a service that is away."""
    names = {image["index"]: image["name"] for image in experiment["images"]}
    path = path_to("experiments", experiment["id"], "cells")
    return [
        Cell(
            index=cell["index"],
            image_index=cell["image_index"],
            image=names[cell["image_index"]],
            values=cell["grid_values"],
            status=cell["status"],
            job=cell["job"],
            reused=cell["reused"],
            tries=cell["tries"],
        )
        for cell in patiently(lambda: list(client.pages(path, {}, None)))
    ]


def point_label(values: Mapping[str, Any]) -> str:
    """`120`, or `120 · 0.1` if several parameters are swept."""
    return " · ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values.values())


def grid_points(cells: Iterable[Cell]) -> list[Mapping[str, Any]]:
    """Each combination of values once, in order."""
    points: list[Mapping[str, Any]] = []
    for cell in cells:
        if cell.values not in points:
            points.append(cell.values)
    return points
