"""How an experiment is laid out in Weights & Biases."""

from __future__ import annotations

from uuid import UUID

import pytest

from shared.ids import new_id
from shared.states import JobStatus
from shared.tables import Experiment, ExperimentCell, Job
from worker.tracking.layout import lay_out, run_name
from worker.tracking.order import Run


@pytest.mark.parametrize(
    ("grid", "name"),
    [
        ({"motion_bucket_id": [120, 180]}, "bucket_120"),
        ({"noise_aug_strength": [0.1, 0.2]}, "noise_0.1"),
        ({"motion_bucket_id": [120, 180], "noise_aug_strength": [0.1, 0.2]}, "bucket_120_noise_0.1"),
        ({"motion_bucket_id": [120, 180], "seed": [42]}, "bucket_120"),
        ({"num_inference_steps": [25]}, "num_inference_steps_25"),
    ],
)
def test_a_run_is_named_after_the_values_that_are_swept(grid: dict[str, list[float]], name: str) -> None:
    assert run_name({parameter: values[0] for parameter, values in grid.items()}, grid) == name


EXPERIMENT = Experiment(
    id=UUID(int=7),
    name="exp_1",
    model="tiny",
    images=[{"name": "rocket"}, {"name": "cat"}],
    grid={"motion_bucket_id": [120, 180]},
    base={"seed": 42},
    labels={},
)


def cells(*jobs: Job) -> list[tuple[ExperimentCell, Job]]:
    return [(ExperimentCell(index=index), job) for index, job in enumerate(jobs)]


def succeeded(flow_px: float) -> Job:
    result = {"video": {"key": f"{flow_px}.mp4"}}
    measures = {"flow_px": flow_px, "drift": None}
    return Job(id=new_id(), status=JobStatus.SUCCEEDED, params={"seed": 42}, result=result, measures=measures)


def test_each_run_has_the_videos_of_all_images_and_their_measures() -> None:
    first, second = lay_out(EXPERIMENT, cells(succeeded(1), succeeded(2), succeeded(3), succeeded(6)))
    assert [(video.key, video.caption, video.object_key) for video in second.videos] == [
        ("image_0", "rocket", "2.mp4"),
        ("image_1", "cat", "6.mp4"),
    ]
    assert second.metrics == {"image_0/flow_px": 2, "image_1/flow_px": 6, "flow_px": 4}
    assert (first.name, second.name, second.config["motion_bucket_id"]) == ("bucket_120", "bucket_180", 180)


def test_a_cell_that_failed_is_named_and_one_that_was_erased_has_no_video() -> None:
    failed = Job(id=new_id(), status=JobStatus.FAILED, params={})
    erased = Job(id=new_id(), status=JobStatus.SUCCEEDED, params={}, result=None, measures={"flow_px": 5.0})
    first, second = lay_out(EXPERIMENT, cells(failed, erased, succeeded(3), succeeded(4)))
    assert (first.config["missing"], [video.key for video in first.videos]) == ({"rocket": "failed"}, ["image_1"])
    assert (second.config["missing"], [video.key for video in second.videos]) == ({}, ["image_1"])
    assert second.metrics["flow_px"] == 4.5


def test_a_run_keeps_its_id_until_a_cell_gets_another_job() -> None:
    jobs = [succeeded(number) for number in range(4)]

    def ids() -> list[str]:
        runs: list[Run] = lay_out(EXPERIMENT, cells(*jobs))
        return [run.id for run in runs]

    before = ids()
    assert ids() == before
    jobs[3] = succeeded(9)
    assert [one == other for one, other in zip(ids(), before, strict=True)] == [True, False]
