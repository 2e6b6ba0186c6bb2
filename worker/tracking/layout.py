"""An experiment as runs of Weights & Biases: one per point of the grid, with a video for each image.

Source of the layout: "Creating videos from static images with Stable Video Diffusion", Weights & Biases 2024: a group
per experiment, a run per value, named `bucket_120` or `noise_0.1`, a video per image under `image_0` and so on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any
from uuid import uuid5

from shared.experiments.grid import grid_points
from shared.ids import show_id
from shared.states import JobStatus
from shared.tables import Experiment, ExperimentCell, Job
from worker.tracking.order import Run, Video

_SHORT_NAMES = {"motion_bucket_id": "bucket", "noise_aug_strength": "noise"}


def lay_out(experiment: Experiment, cells: Sequence[tuple[ExperimentCell, Job]]) -> list[Run]:
    """The runs of a finished experiment, in the order of the grid.

    Args:
        cells: all of it, in the order of their indexes.
    """
    points = grid_points(experiment.grid)
    return [_run(experiment, point, cells[number :: len(points)]) for number, point in enumerate(points)]


def run_name(point: Mapping[str, Any], grid: Mapping[str, Sequence[Any]]) -> str:
    """`bucket_120`; `bucket_120_noise_0.1` if both are swept."""
    swept = [name for name, values in grid.items() if len(values) > 1] or list(grid)
    return "_".join(f"{_SHORT_NAMES.get(name, name)}_{point[name]}" for name in swept)


def _run(experiment: Experiment, point: Mapping[str, Any], cells: Sequence[tuple[ExperimentCell, Job]]) -> Run:
    images = [image["name"] for image in experiment.images]
    shown = show_id("exp", experiment.id)
    made = [(number, job) for number, (_, job) in enumerate(cells) if job.status == JobStatus.SUCCEEDED]
    metrics = {
        f"image_{number}/{measure}": value
        for number, job in made
        for measure, value in (job.measures or {}).items()
        if value is not None
    }
    return Run(
        id=uuid5(experiment.id, " ".join(str(job.id) for _, job in cells)).hex[:16],
        name=run_name(point, experiment.grid),
        group=experiment.name,
        tags=[shown],
        config={
            **experiment.base,
            # As resolved: with the model's defaults. They are all the same but for the image.
            **(cells[0][1].params or {}),
            **point,
            "model": experiment.model,
            "experiment": shown,
            "images": images,
            "jobs": [show_id("job", job.id) for _, job in cells],
            "missing": {
                images[number]: job.status for number, (_, job) in enumerate(cells) if (number, job) not in made
            },
            "labels": experiment.labels,
        },
        metrics={**metrics, **_means(metrics)},
        videos=[
            Video(key=f"image_{number}", caption=images[number], object_key=job.result["video"]["key"])
            for number, job in made
            # None: kept only so long.
            if job.result is not None
        ],
    )


def _means(metrics: Mapping[str, float]) -> dict[str, float]:
    by_measure: dict[str, list[float]] = {}
    for name, value in metrics.items():
        by_measure.setdefault(name.partition("/")[2], []).append(value)
    return {measure: fmean(values) for measure, values in by_measure.items()}
