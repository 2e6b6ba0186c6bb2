"""What is measured of a video gets to its job and manifest, and never in the video's way."""

from __future__ import annotations

import io
import json
import threading
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine
from support import WORKER_ID, eventually

from shared.database import Sessions
from shared.measures import Measures
from shared.objects import ObjectStore
from shared.settings import Settings
from worker.attempt import Services
from worker.double import DoublePipeline
from worker.generate import Generator
from worker.pipeline import Generation, PipelineInfo


@dataclass(frozen=True)
class Unmeasurable:
    """The double, but what it says that it was given has not the frames' size."""

    double: DoublePipeline = field(default_factory=lambda: DoublePipeline(step_s=0))

    @property
    def info(self) -> PipelineInfo:
        return self.double.info

    def generate(self, *given: Any) -> Generation:
        return replace(self.double.generate(*given), image=np.zeros((2, 2, 3), np.uint8))


@pytest.fixture
def run(client: Any, rocket: bytes, engine: Engine, sessions: Sessions, settings: Settings, store: ObjectStore) -> Any:
    """A job by a pipeline, to its end; with its manifest."""

    def run(pipeline: Any, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        form = {"model": "double", "num_inference_steps": "1", "num_frames": "4", "motion_bucket_id": "60"}
        made = client.post("/v1/jobs", data={**form, "image": (io.BytesIO(rocket), "a.jpg")}).json
        services = Services(settings=settings.model_copy(update=changes), sessions=sessions, store=store)
        Generator(services, engine, pipeline, model="double", worker_id=WORKER_ID).run_next()
        eventually(lambda: client.get(f"/v1/jobs/{made['id']}").json["status"] == "succeeded")
        # Its lease's thread ends a moment later, and gives its connection back.
        eventually(lambda: not any(thread.name.startswith("lease-") for thread in threading.enumerate()))
        key = next(key for key in store.list_keys(f"jobs/{made['id']}/") if key.endswith("manifest.json"))
        return client.get(f"/v1/jobs/{made['id']}").json, json.loads(store.get(key))

    return run


def test_a_succeeded_job_shows_what_was_measured_and_its_manifest_too(run: Any) -> None:
    job, manifest = run(DoublePipeline(step_s=0))
    measures = job["measures"]
    assert manifest["measures"] == measures
    # It pans by 2 px per frame, behind grain that stays where it is; it has no image encoder.
    assert 0.5 < measures["flow_px"] < 2.5
    assert measures["first_frame_ssim"] > 0.8
    assert measures["drift"] is None
    assert manifest["timings_s"]["measure"] > 0


def test_a_video_that_cannot_be_measured_is_stored_all_the_same(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    job, manifest = run(Unmeasurable())
    assert job["result"]["num_frames"] == 4
    assert job["measures"] == manifest["measures"] == Measures().model_dump()
    assert "cannot be measured" in caplog.text


def test_measuring_can_be_switched_off(run: Any) -> None:
    job, manifest = run(DoublePipeline(step_s=0), measures=False)
    assert job["measures"] is None
    assert manifest["measures"] is None
    assert "measure" not in manifest["timings_s"]
