"""The models that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from shared.catalogue import BUILT_IN, Catalogue, find_entry, off_distribution, resolve
from shared.errors import InvalidInputError, StartupError
from shared.exit_codes import ExitCode
from shared.params import GenerationOptions


@pytest.mark.parametrize("entry", BUILT_IN.values(), ids=list(BUILT_IN))
def test_a_models_own_defaults_are_legal_and_need_no_warning(entry) -> None:  # type: ignore[no-untyped-def]
    params = resolve(GenerationOptions(), entry)
    assert off_distribution(params, entry) == []


def test_hub_models_are_pinned_to_a_commit() -> None:
    hub = [entry for entry in BUILT_IN.values() if entry.source == "hub"]
    assert len(hub) == 3
    assert all(re.fullmatch(r"[0-9a-f]{40}", entry.revision or "") for entry in hub)
    assert len({entry.revision for entry in hub}) == 3


def test_a_seed_is_drawn_when_absent_and_kept_when_given() -> None:
    entry = find_entry("tiny")
    drawn = {resolve(GenerationOptions(), entry).seed for _ in range(5)}
    assert len(drawn) > 1
    assert resolve(GenerationOptions(seed=42), entry).seed == 42


def test_playback_follows_fps_unless_it_is_given() -> None:
    entry = find_entry("tiny")
    assert resolve(GenerationOptions(fps=12), entry).playback_fps == 12
    assert resolve(GenerationOptions(fps=12, playback_fps=24), entry).playback_fps == 24


@pytest.mark.parametrize(
    ("options", "field", "seen"),
    [
        (GenerationOptions(width=2048, height=2048), "width", "2048×2048"),
        (GenerationOptions(num_frames=26), "num_frames", "26"),
    ],
)
def test_what_is_too_large_for_the_model_names_field_and_value(
    options: GenerationOptions, field: str, seen: str
) -> None:
    with pytest.raises(InvalidInputError, match=seen) as caught:
        resolve(options, find_entry("tiny"))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (GenerationOptions(motion_bucket_id=300), "motion_bucket_id"),
        (GenerationOptions(noise_aug_strength=0.8), "noise_aug_strength"),
        (GenerationOptions(width=512, height=320), "native size"),
        (GenerationOptions(num_frames=20), "num_frames"),
        (GenerationOptions(fps=60), "fps"),
    ],
)
def test_legal_values_off_the_models_distribution_are_warned_of(options: GenerationOptions, word: str) -> None:
    entry = find_entry("tiny")
    [warning] = off_distribution(resolve(options, entry), entry)
    assert word in warning


def test_one_guidance_scale_alone_moves_the_other() -> None:
    entry = find_entry("svd")
    low = resolve(GenerationOptions(max_guidance_scale=0.5), entry)
    assert (low.min_guidance_scale, low.max_guidance_scale) == (0.5, 0.5)
    high = resolve(GenerationOptions(min_guidance_scale=5), entry)
    assert (high.min_guidance_scale, high.max_guidance_scale) == (5, 5)


def test_a_local_checkpoint_has_its_own_frame_count(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"num_frames": 8}))
    named = find_entry(f"mine={tmp_path}")
    assert (named.name, named.source, named.defaults.num_frames) == ("mine", "directory", 8)
    assert find_entry(str(tmp_path)).name == tmp_path.name
    assert named.queue == "generate.mine"


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(StartupError, match="svd-xt") as caught:
        find_entry("sdxl")
    assert caught.value.exit_code == ExitCode.CONFIG
    with pytest.raises(InvalidInputError, match="tiny") as refused:
        Catalogue.from_names(["tiny"]).get("svd")
    assert refused.value.field == "model"


def test_the_double_is_found_by_name_but_not_offered() -> None:
    assert find_entry("double").source == "double"
    assert "double" not in BUILT_IN
