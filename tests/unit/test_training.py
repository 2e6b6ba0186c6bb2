"""What of the training needs no torch: presets, the schedule, the gates."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from training.config import PRESETS, STAGES, Preset
from training.gates import check_gates
from training.schedule import Schedule


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_a_presets_sizes_fit_its_models(preset: Preset) -> None:
    model = preset.model
    assert all(channels % 32 == 0 for channels in (*model.vae_channels, *model.unet_channels))
    assert len(model.unet_channels) == len(model.unet_heads) == len(model.unet_attention)
    for name in STAGES:
        for size in preset.stage(name).sizes:
            assert size.width % (2 * model.vae_factor) == 0
            assert size.height % (2 * model.vae_factor) == 0


def test_the_rate_warms_up_stays_and_falls_to_nothing() -> None:
    schedule = Schedule(total=100, warmup=10, decay=0.3)
    rates = [schedule.factor(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert all(rate == 1 for rate in rates[9:70])
    assert sorted(rates[70:], reverse=True) == rates[70:]
    assert 0 < rates[-1] < 0.03


def test_a_budget_of_time_moves_the_total_until_the_decay_begins() -> None:
    schedule = Schedule(total=1000, warmup=10, decay=0.3)
    schedule.fit(step=100, elapsed_s=50, seconds_per_step=0.5, budget_s=300, multiple=50)
    assert schedule.total == 600
    schedule.fit(step=420, elapsed_s=250, seconds_per_step=0.5, budget_s=3000, multiple=50)
    assert schedule.total == 600


def test_without_an_optimizers_state_the_rate_warms_up_again() -> None:
    schedule = Schedule(total=100, warmup=10, decay=0.3, cold_at=40)
    assert schedule.factor(40) == pytest.approx(0.1)
    assert schedule.factor(50) == 1


def videos(**changes: float) -> list[Any]:
    """Measures that pass all gates, but for the changes, which go to the last photo and seed at bucket 127."""
    found = []
    for photo in ("cat", "rocket"):
        for seed in (1, 2):
            for bucket, noise, drop in (
                *((20, 0.02, 0), (127, 0.02, 0), (255, 0.02, 0)),
                *((127, 0.1, 1), (127, 0.2, 2), (127, 0.4, 3)),
            ):
                found.append(
                    SimpleNamespace(
                        photo=photo,
                        seed=seed,
                        motion_bucket_id=bucket,
                        noise_aug_strength=noise,
                        first_db=27.0,
                        last_db=24.0,
                        static_db=20.0,
                        last_ssim=0.7,
                        flow_px=bucket / 20,
                        flicker=1.0,
                        intended_flicker=0.6,
                        all_to_photo_db=25.0 - drop,
                    )
                )
    for name, value in changes.items():
        [one] = [v for v in found[-6:] if (v.motion_bucket_id, v.noise_aug_strength) == (127, 0.02)]
        setattr(one, name, value)
    return found


def test_good_measures_pass_all_gates() -> None:
    assert all(gate.holds for gate in check_gates(videos()))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("first_db", 25.9, "frame 0"),
        ("last_ssim", 0.59, "similar"),
        ("last_db", 19.9, "nearer"),
        ("flow_px", 1.4, "bucket 127 as at 20"),
        ("flow_px", 9.0, "bucket 255 as at 127"),
        ("all_to_photo_db", 23.9, "noise"),
    ],
)
def test_one_video_that_fails_is_enough_to_close_its_gate(name: str, value: float, said: str) -> None:
    closed = [gate for gate in check_gates(videos(**{name: value})) if not gate.holds]
    assert len(closed) == 1
    assert said in closed[0].name


def test_help_comes_without_torch() -> None:
    script = "import sys, training.__main__; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
