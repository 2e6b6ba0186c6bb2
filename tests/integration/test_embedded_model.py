"""What only a model that shows its photo can prove: the right picture, colours, way up, and motion.

`rocket` and `chelsea` were not among the photos that the embedded model was trained on.
"""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from frames import first_frame, psnr_db
from numpy.typing import NDArray
from support import Service

from shared.catalogue import find_entry, resolve
from shared.params import GenerationOptions, GenerationParams
from shared.settings import Settings
from training.evaluate import Measures, weight_digests
from training.gates import check_gates
from training.metrics import mean_flow
from worker.checkpoint import TINY
from worker.load import load
from worker.media import encode_mp4, prepare_image
from worker.pipeline import VideoFrames, VideoPipeline

SAMPLES = Path(__file__).parents[2] / "docs" / "samples"
ROCKET, CHELSEA = SAMPLES / "rocket.jpg", SAMPLES / "chelsea.png"

#: smaller and shorter than the model's own video: enough to tell, in a third of the time.
SMALL: dict[str, Any] = {"width": 192, "height": 128, "num_frames": 8, "num_inference_steps": 4, "seed": 1}
RIGHT_TOP = 6  # EXIF: turn by 90° clockwise to see it upright
#: well below what the model reaches, well above what any other picture does.
SAME_PICTURE_DB, OTHER_PICTURE_DB = 21, 15


def params(**options: Any) -> GenerationParams:
    return resolve(GenerationOptions(**{**SMALL, **options}), find_entry("tiny"))


def turned(path: Path) -> bytes:
    """The photo lying on its side, with the EXIF orientation that sets it upright."""
    exif = PIL.Image.Exif()
    exif[0x0112] = RIGHT_TOP
    file = io.BytesIO()
    photo = PIL.Image.open(path).convert("RGB").transpose(PIL.Image.Transpose.ROTATE_90)
    photo.save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


def picture(path: Path) -> NDArray[np.uint8]:
    """What the video of this photo should begin with; by Pillow alone, so that no fault of ours is on both sides."""
    size = (SMALL["width"], SMALL["height"])
    photo = PIL.Image.open(path).convert("RGB")
    return np.asarray(PIL.ImageOps.fit(photo, size, PIL.Image.Resampling.LANCZOS))


@pytest.fixture(scope="module")
def pipeline() -> VideoPipeline:
    return load(Settings(device="cpu"), find_entry("tiny"))


@pytest.fixture(scope="module")
def video(pipeline: VideoPipeline) -> Any:
    """Frames for a file and options; the same are made once."""

    @cache
    def generate(path: Path, motion_bucket_id: int = 127) -> VideoFrames:
        chosen = params(motion_bucket_id=motion_bucket_id)
        image = prepare_image(path.read_bytes(), chosen)
        return pipeline.generate(image, chosen, lambda _phase, _step, _total: None).frames

    return generate


def test_the_measures_that_come_with_the_checkpoint_are_of_it_and_hold_all_gates() -> None:
    records = json.loads((TINY / "measures.json").read_text())
    assert records["weights"] == weight_digests(TINY)
    measures = [Measures(**one) for one in records["measures"]]
    assert {(one.photo, one.seed) for one in measures} == {(p, s) for p in ("chelsea", "rocket") for s in (1, 2, 3)}
    assert [gate for gate in check_gates(measures) if not gate.holds] == []


@pytest.mark.parametrize(("own", "other"), [(ROCKET, CHELSEA), (CHELSEA, ROCKET)], ids=lambda path: path.stem)
def test_the_first_frame_resembles_the_photo_and_not_another(video: Any, own: Path, other: Path) -> None:
    assert psnr_db(video(own)[0], picture(own)) > SAME_PICTURE_DB
    assert psnr_db(video(own)[0], picture(other)) < OTHER_PICTURE_DB


@pytest.mark.parametrize("path", [ROCKET, CHELSEA], ids=lambda path: path.stem)
def test_colours_are_not_swapped_in_frames_nor_in_the_mp4(video: Any, path: Path, tmp_path: Path) -> None:
    wanted = picture(path)
    encode_mp4(video(path), 7, tmp_path / "video.mp4")
    for frame in (video(path)[0], first_frame(tmp_path / "video.mp4", 192, 128)):
        for swapped in ([2, 1, 0], [1, 0, 2], [0, 2, 1]):
            assert psnr_db(frame, wanted) > psnr_db(frame, wanted[..., swapped]) + 2


@pytest.mark.parametrize("path", [ROCKET, CHELSEA], ids=lambda path: path.stem)
def test_motion_follows_the_bucket(video: Any, path: Path) -> None:
    def way(bucket: int) -> float:
        first, *_, last = torch.from_numpy(video(path, bucket)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return mean_flow(first, last)

    slow, usual, fast = way(20), way(127), way(255)
    assert usual > 1.5 * slow
    # The gate of half as much again is for the full size and length; see `training.gates`.
    assert fast > 1.2 * usual


def test_photos_sent_together_come_back_upright_unmixed_and_the_same_each_time(
    service: Service, tmp_path: Path
) -> None:
    photos = [turned(ROCKET), CHELSEA.read_bytes(), turned(ROCKET)]
    service.start_all("tiny", device="cpu")
    jobs = [
        service.submit(photo, model="tiny", **{**SMALL, "num_frames": 4, "num_inference_steps": 3}) for photo in photos
    ]
    first = []
    for job in jobs:
        service.await_status(job["id"], "succeeded", within_s=200)
        path = tmp_path / f"{job['id']}.mp4"
        path.write_bytes(service.request("GET", f"/v1/jobs/{job['id']}/video", retries=3).data)
        first.append(first_frame(path, 192, 128))

    rocket, chelsea = picture(ROCKET), picture(CHELSEA)
    assert psnr_db(first[0], rocket) > SAME_PICTURE_DB
    assert psnr_db(first[1], chelsea) > SAME_PICTURE_DB
    for frame, other in (
        (first[0], chelsea),
        (first[1], rocket),
        (first[0], rocket[::-1]),
        (first[0], rocket[:, ::-1]),
    ):
        assert psnr_db(frame, other) < SAME_PICTURE_DB - 1
    made = [service.job(job["id"])["result"]["video"]["sha256"] for job in jobs]
    assert made[0] == made[2] != made[1]
