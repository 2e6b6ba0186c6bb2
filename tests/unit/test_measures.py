"""Measures of clips whose motion, flicker and likeness are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from shared.similarity import structural_similarity
from worker.measures import FLOW_PIXELS_MAX, measure
from worker.pipeline import VideoFrames

SAMPLES = Path(__file__).parent.parent.parent / "docs" / "samples"


def photo(name: str = "chelsea.png", enlarged: int = 1) -> VideoFrames:
    image = PIL.Image.open(SAMPLES / name).convert("RGB")
    return np.asarray(image.resize((image.width * enlarged, image.height * enlarged), PIL.Image.Resampling.BICUBIC))


def pan(picture: VideoFrames, positions: list[tuple[int, int]], width: int = 256, height: int = 192) -> VideoFrames:
    """A window of the picture, at (x, y) in each frame: what it shows moves the other way."""
    return np.stack([picture[y : y + height, x : x + width] for x, y in positions])


@pytest.mark.parametrize("name", ["chelsea.png", "rocket.jpg"])
@pytest.mark.parametrize(
    "shift", [(1, 0), (-1, 0), (0, 2), (3, 0), (0, -4), (3, 4), (-6, -2), (9, 0), (-16, 0)], ids=str
)
def test_a_shift_of_k_px_per_frame_measures_k(name: str, shift: tuple[int, int]) -> None:
    frames = pan(photo(name), [(60 + index * shift[0], 40 + index * shift[1]) for index in range(4)])
    measured = measure(frames, frames[0])
    assert measured.flow_px == pytest.approx(np.hypot(*shift), rel=0.05)


def test_large_frames_measure_px_of_their_own_size() -> None:
    frames = pan(photo(enlarged=3), [(100 + 6 * index, 100) for index in range(3)], width=1024, height=576)
    assert frames[0, :, :, 0].size > FLOW_PIXELS_MAX
    measured = measure(frames, frames[0])
    assert measured.flow_px == pytest.approx(6, rel=0.05)
    assert measured.jerkiness_px < 0.3
    assert measured.flicker < 0.5


def test_a_pure_pan_is_neither_jerky_nor_flickers() -> None:
    frames = pan(photo(), [(10 + 5 * index, 20 + 2 * index) for index in range(6)])
    measured = measure(frames, frames[0])
    assert measured.jerkiness_px < 0.1
    assert measured.flicker < 0.5
    assert np.abs(np.diff(frames.astype(int), axis=0)).mean() > 10  # which is what flicker would be without the motion


def test_a_pan_in_jolts_is_as_jerky_as_its_jolts() -> None:
    frames = pan(photo(), [(20 + x, 40) for x in (0, 2, 8, 10, 16, 18)])
    assert measure(frames, frames[0]).jerkiness_px == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("speed", [4, 16])
def test_what_a_moving_thing_uncovers_does_not_count_as_flicker(speed: int) -> None:
    background, thing = photo()[:256, :448], photo("rocket.jpg")[230:330, 250:350]
    frames = np.stack([background] * 3)
    for index, frame in enumerate(frames):
        frame[80:180, 60 + speed * index : 160 + speed * index] = thing
    measured = measure(frames, frames[0])
    assert measured.flow_px == pytest.approx(speed * 100 * 100 / (256 * 448), rel=0.1)
    assert measured.flicker < 0.25


@pytest.mark.parametrize("amount", [2, 10, 30])
def test_a_still_clip_of_changing_brightness_flickers_by_the_change(amount: int) -> None:
    dimmed = (photo() * 0.7 + 20).round().astype(np.uint8)
    frames = np.stack([dimmed + amount * (index % 2) for index in range(4)]).astype(np.uint8)
    measured = measure(frames, frames[0])
    assert measured.flicker == pytest.approx(amount, rel=0.05)
    assert measured.flow_px < 0.05


def test_grain_flickers_by_its_own_strength() -> None:
    noise = np.random.default_rng(1).normal(0, 5, (4, *photo().shape[:2], 1))
    frames = (photo() * 0.7 + 20 + noise).round().astype(np.uint8)
    # The difference of two independent values of deviation σ has the mean length 2σ/√π.
    assert measure(frames, frames[0]).flicker == pytest.approx(2 * 5 / np.sqrt(np.pi), rel=0.15)


def test_a_still_video_of_its_image_measures_nothing_but_likeness() -> None:
    measured = measure(np.stack([photo()] * 3), photo())
    assert measured.model_dump() == {
        "flow_px": 0,
        "jerkiness_px": 0,
        "flicker": 0,
        "first_frame_ssim": 1,
        "drift": None,
    }


def test_the_first_frame_alone_is_compared_with_the_image() -> None:
    other = photo()[:, ::-1]
    assert measure(np.stack([photo(), other]), photo()).first_frame_ssim == 1
    assert measure(np.stack([other, photo()]), photo()).first_frame_ssim < 0.7


def test_similarity_falls_with_noise_and_ignores_a_little_brightness() -> None:
    plane = photo()[:, :, 1].astype(np.float32)
    noise = np.random.default_rng(1).normal(0, 1, plane.shape).astype(np.float32)
    assert structural_similarity(plane, plane) == 1
    assert structural_similarity(plane, plane + 5) > 0.98
    assert (
        0.3 < structural_similarity(plane, plane + 20 * noise) < structural_similarity(plane, plane + 10 * noise) < 0.9
    )
    assert structural_similarity(plane, 255 - plane) < 0


def test_what_too_few_frames_cannot_show_is_null() -> None:
    measured = measure(photo()[None], photo())
    assert (measured.flow_px, measured.jerkiness_px, measured.flicker) == (None, None, None)
    assert measured.first_frame_ssim == 1
    assert measure(np.stack([photo()] * 2), photo()).jerkiness_px is None


def test_frames_without_anything_to_follow_do_not_flicker_by_it() -> None:
    """Noise that is new in each frame is visible nowhere, but for chance; nothing fails, and nothing is NaN."""
    frames = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    measured = measure(frames, frames[0])
    assert all(value is None or np.isfinite(value) for value in measured.model_dump().values())


def test_measuring_stops_before_the_next_pair_when_told_to() -> None:
    pairs = []

    def stop() -> None:
        pairs.append(1)
        if len(pairs) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        measure(np.stack([photo()] * 5), photo(), stop)
    assert len(pairs) == 2


def test_the_same_frames_measure_the_same() -> None:
    frames = pan(photo(), [(3 * index, 0) for index in range(4)])
    assert measure(frames, frames[0]) == measure(frames.copy(), frames[0])
