"""`animatic sweep` without a service: its options, what it concludes, and the files it writes."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner
from rich.console import Console

from cli.experiments.cells import Cell
from cli.experiments.contact_sheet import write_contact_sheets
from cli.experiments.effects import chance_of_agreement, find_effects, rank_correlation
from cli.experiments.grid import PRESETS, split_grid
from cli.experiments.report import describe
from cli.experiments.request import build_request, image_names
from cli.experiments.results import _file_name, write_table
from cli.experiments.side_by_side import write_side_by_side
from cli.experiments.watching import draw
from cli.main import cli
from shared.exit_codes import ExitCode
from shared.video import probe_mp4, read_frames, write_mp4

WIDTH, HEIGHT = 128, 64


def cell(
    index: int,
    image_index: int,
    values: dict[str, Any],
    *,
    status: str = "succeeded",
    duration_s: float = 1.0,
    **measures: float,
) -> Cell:
    file = {"url": f"http://127.0.0.1/v1/jobs/job_{index}/video"}
    result = {"width": WIDTH, "height": HEIGHT, "duration_s": duration_s, "video": file, "manifest": file}
    job = {
        "id": f"job_{index}",
        "params": {"seed": 42, **values},
        "error": None if status == "succeeded" else {"code": "invalid_output", "message": "the video is black"},
        "measures": measures,
        "result": result if status == "succeeded" else None,
        "input_id": "inp_1",
        "created_at": "2026-01-02T03:04:05Z",
        "started_at": "2026-01-02T03:04:06.5Z",
        "finished_at": "2026-01-02T03:04:08Z",
        "links": {"self": f"http://127.0.0.1/v1/jobs/job_{index}"},
    }
    return Cell(index, image_index, f"photo {image_index}", values, status, job, reused=False, tries=1)


def run(*arguments: str) -> Any:
    # Nothing listens there: what is wrong must be said before anything is sent.
    return CliRunner().invoke(cli, ["sweep", *arguments, "--url", "http://127.0.0.1:1"], env={"ANIMATIC_API_KEY": "k"})


# --- the grid


def test_one_value_is_fixed_and_several_are_an_axis_in_the_order_given() -> None:
    grid, base = split_grid({"seed": (1, 2), "fps": (7,), "motion_bucket_id": (120, 180)}, None)
    assert (list(grid.items()), base) == ([("seed", [1, 2]), ("motion_bucket_id", [120, 180])], {"fps": 7})


def test_the_presets_are_the_articles_experiments() -> None:
    fixed = {"seed": 42, "decode_chunk_size": 8, "playback_fps": 7}
    assert split_grid({}, PRESETS["motion"]) == (
        {"motion_bucket_id": [120, 180, 240, 300, 360]},
        {"noise_aug_strength": 0.1, **fixed},
    )
    assert split_grid({}, PRESETS["noise"]) == (
        {"noise_aug_strength": [0.1, 0.2, 0.3, 0.4]},
        {"motion_bucket_id": 120, **fixed},
    )


def test_what_is_given_wins_over_the_preset() -> None:
    grid, base = split_grid({"seed": (7,), "num_inference_steps": (4,)}, PRESETS["noise"])
    assert list(grid) == ["noise_aug_strength"]
    assert (base["seed"], base["num_inference_steps"]) == (7, 4)


def test_the_request_has_what_was_given_and_a_name() -> None:
    options = {"seed": (1, 2), "fps": (7,), "labels": ("shot=1",), "wandb_project": "films", "reuse": True}
    assert build_request(options) == {
        "name": "seed",
        "grid": {"seed": [1, 2]},
        "base": {"fps": 7},
        "labels": {"shot": "1"},
        "wandb": {"project": "films"},
        "reuse": True,
    }
    assert build_request({"preset": "motion"})["name"] == "exp_1"
    assert "wandb" not in build_request({"preset": "motion"})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "give at least one PHOTO, or --attach EXPERIMENT"),
        (("a.jpg", "--seed", "1"), "nothing to sweep: give a parameter several values"),
        (("a.jpg", "--seed", "1,2,1"), "each value must be given once, got 1 twice"),
        (("a.jpg", "--noise-aug-strength", "0.1,0.10"), "got 0.1 twice"),
        (("a.jpg", "--seed", "1,,2"), "separated by single commas"),
        (("a.jpg", "--motion-bucket-id", "120,512"), "512 is not in the range 0<=x<=511"),
        (("a.jpg", "--preset", "zoom"), "'zoom' is not one of 'motion', 'noise'"),
        (("nowhere.jpg", "--preset", "motion"), "nowhere.jpg is not a file"),
        (("a.jpg", "a.jpg", "--preset", "motion"), "a.jpg is given twice"),
        (("a.jpg", "--attach", "exp_1"), "--attach takes an experiment as it is"),
        (("--seed", "1,2", "--attach", "exp_1"), "--attach takes an experiment as it is"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_nothing_is_sent(arguments: tuple[str, ...], sentence: str) -> None:
    done = run(*arguments)
    assert done.exit_code == ExitCode.USAGE, done.stderr
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_images_are_named_after_their_files_and_no_name_comes_twice() -> None:
    photos = ["a/cat.png", "b/cat.jpg", "https://example.com/p/dog.webp?size=9", "data:image/png;base64,AAAA"]
    assert image_names(photos) == ["cat", "cat-2", "dog", "image"]


# --- what moved what


def test_rank_correlation_knows_order_ties_and_no_change() -> None:
    assert rank_correlation([1, 2, 3], [0.1, 5, 6]) == 1
    assert rank_correlation([1, 2, 3], [9, 3, 1]) == -1
    assert rank_correlation([1, 2, 3], [4, 4, 4]) == 0
    # By hand: ranks 1 2 3 4 and 1 2.5 2.5 4.
    assert rank_correlation([1, 2, 3, 4], [1, 2, 2, 3]) == pytest.approx(4.5 / (5 * 4.5) ** 0.5)


def measured_grid() -> list[Cell]:
    """Two images that differ far more than the parameter moves them; their flow follows it, their flicker does not."""
    return [
        cell(
            3 * image + number,
            image,
            {"motion_bucket_id": value},
            flow_px=100.0 * image + value / 100,
            flicker=float(number if image else -number),
        )
        for image in range(2)
        for number, value in enumerate((60, 120, 180))
    ]


def test_an_effect_is_found_within_each_image_however_much_they_differ() -> None:
    flow, flicker = find_effects(measured_grid(), {"motion_bucket_id": [60, 120, 180]})
    assert (flow.measure, flow.correlations, flow.direction) == ("flow_px", (1.0, 1.0), 1)
    assert flow.means == pytest.approx({60: 50.6, 120: 51.2, 180: 51.8})
    assert flow.range == pytest.approx(1.2)
    assert (flicker.measure, flicker.direction) == ("flicker", 0)
    assert chance_of_agreement(flow) == 0.5


def test_the_report_says_what_moved_and_what_that_is_worth() -> None:
    effects = find_effects(measured_grid(), {"motion_bucket_id": [60, 120, 180]})
    assert describe("motion_bucket_id", effects) == (
        "More motion_bucket_id gave more flow_px (50.6 → 51.8) in both series (one image, all else equal); "
        "by chance alone they would agree with a probability of 50%."
    )


def test_a_measure_that_rises_and_falls_has_a_peak_and_no_direction() -> None:
    cells = [
        cell(3 * image + number, image, {"motion_bucket_id": value}, flow_px=image + level)
        for image in range(2)
        for number, (value, level) in enumerate(((120, 0.1), (240, 0.9), (360, 0.4)))
    ]
    [flow] = effects = find_effects(cells, {"motion_bucket_id": [120, 240, 360]})
    assert (flow.direction, flow.peak) == (0, 240)
    assert describe("motion_bucket_id", effects) == (
        "No measure followed motion_bucket_id in both series (one image, all else equal).\n"
        "flow_px was highest at 240 in both series (one image, all else equal)."
    )


def test_a_measure_that_turns_back_late_is_said_to_peak_beside_those_that_follow() -> None:
    flows, drifts = (0.62, 0.87, 1.12, 1.08, 0.91), (0.1, 0.2, 0.3, 0.4, 0.5)
    cells = [
        cell(5 * image + number, image, {"motion_bucket_id": 120 + 60 * number}, flow_px=image + flow, drift=drift)
        for image in range(2)
        for number, (flow, drift) in enumerate(zip(flows, drifts, strict=True))
    ]
    flow, _ = effects = find_effects(cells, {"motion_bucket_id": [120, 180, 240, 300, 360]})
    assert flow.correlations == pytest.approx((0.6, 0.6))
    assert (flow.direction, flow.peak) == (0, 240)
    assert describe("motion_bucket_id", effects) == (
        "More motion_bucket_id gave more drift (0.1 → 0.5) in both series (one image, all else equal); "
        "by chance alone they would agree with a probability of 50%.\n"
        "flow_px was highest at 240 in both series (one image, all else equal)."
    )


def test_a_measure_that_one_image_does_not_follow_has_no_direction() -> None:
    cells = [
        cell(3 * image + number, image, {"motion_bucket_id": 60 * (1 + number)}, first_frame_ssim=level)
        for image, levels in enumerate(((0.890, 0.891, 0.889), (0.857, 0.855, 0.853)))
        for number, level in enumerate(levels)
    ]
    [likeness] = find_effects(cells, {"motion_bucket_id": [60, 120, 180]})
    assert (likeness.correlations, likeness.direction) == ((-0.5, -1.0), 0)


def test_a_seed_has_no_direction() -> None:
    cells = [cell(number, 0, {"seed": number}, flow_px=float(number)) for number in range(3)]
    [effect] = find_effects(cells, {"seed": [0, 1, 2]})
    assert (effect.correlation, effect.range) == (None, 2.0)
    assert "no order" in describe("seed", [effect])


def test_means_compare_only_images_that_have_all_values() -> None:
    [flow, _] = find_effects(measured_grid()[:5], {"motion_bucket_id": [60, 120, 180]})
    assert flow.means == pytest.approx({60: 0.6, 120: 1.2, 180: 1.8})


def test_cells_without_a_measure_are_left_out_of_the_means() -> None:
    cells = [*measured_grid()[:2], cell(2, 0, {"motion_bucket_id": 180}, status="failed")]
    [flow, _] = find_effects(cells, {"motion_bucket_id": [60, 120, 180]})
    assert list(flow.means) == [60, 120]
    assert flow.correlation is None


# --- the files


def test_the_table_has_parameters_measures_timings_and_urls_of_every_cell(tmp_path: Path) -> None:
    cells = [
        cell(0, 0, {"motion_bucket_id": 60}, flow_px=0.5),
        cell(1, 0, {"motion_bucket_id": 120}, status="failed"),
    ]
    with write_table(cells, {0: {"denoise": 1.25}}, tmp_path / "new" / "results.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first["motion_bucket_id"] == "60"
    assert (first["seed"], first["flow_px"], first["run_s"], first["denoise_s"]) == ("42", "0.5", "1.5", "1.25")
    assert first["video_url"] == "http://127.0.0.1/v1/jobs/job_0/video"
    assert (second["status"], second["error"], second["video_url"]) == ("failed", "the video is black", "")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_the_table_has_no_formula_that_somebody_named_an_image(tmp_path: Path, name: str) -> None:
    named = replace(cell(0, 0, {"min_guidance_scale": -1.5}), image=name)
    with write_table([named], {}, tmp_path / "results.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["image"], row["min_guidance_scale"]) == (f"'{name}", "-1.5")


def test_a_video_gets_a_file_whatever_its_image_is_called(tmp_path: Path) -> None:
    for name in ("../../etc/passwd", "\N{GRINNING FACE}" * 100, "写真" * 50, "a/b\x1b[2J"):
        path = tmp_path / f"{_file_name(replace(cell(7, 0, {'seed': 1}), image=name))}.mp4"
        path.touch()
        assert path.resolve().parent == tmp_path
        assert path.name.startswith("007_")


def test_a_name_that_looks_like_markup_or_moves_the_cursor_is_shown_as_it_is(
    tmp_path: Path, videos: dict[int, Path]
) -> None:
    hostile = "[/red]\x1b[2J\nb"
    cells = [replace(one, image=hostile) for one in grid_of_three()]
    counts = {"total": 3, "succeeded": 3, "failed": 0, "canceled": 0, "running": 0, "queued": 0}
    experiment = {"name": hostile, "status": "running", "progress": 0.5, "eta_s": None, "counts": counts}
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    console.print(draw(experiment, cells, 120))
    assert console.file.getvalue().count("[/red]\\x1b[2J\\nb") == 2
    [sheet] = write_contact_sheets(cells, videos, tmp_path)
    assert sheet.exists()


@pytest.fixture
def videos(tmp_path: Path) -> dict[int, Path]:
    """Two videos of one colour that brightens from frame to frame, at 4 and at 8 frames per second."""
    paths = {}
    for index, fps in ((0, 4), (1, 8)):
        frames = np.stack([np.full((HEIGHT, WIDTH, 3), 40 * number, np.uint8) for number in range(1, 5)])
        paths[index] = tmp_path / f"{index}.mp4"
        write_mp4(paths[index], frames.tobytes(), width=WIDTH, height=HEIGHT, fps=fps)
    return paths


def grid_of_three() -> list[Cell]:
    return [
        cell(0, 0, {"motion_bucket_id": 60}, duration_s=1.0),
        cell(1, 0, {"motion_bucket_id": 120}, duration_s=0.5),
        cell(2, 0, {"motion_bucket_id": 180}, status="failed"),
    ]


def shades(picture: np.ndarray[Any, Any]) -> set[int]:
    """The greys of large even areas, to the nearest ten."""
    levels, counts = np.unique(picture[:, :, 0].round(-1), return_counts=True)
    return {int(level) for level, count in zip(levels, counts, strict=True) if count > WIDTH * HEIGHT // 2}


def test_the_contact_sheet_shows_first_middle_and_last_frames_and_a_grey_tile_for_a_failure(
    videos: dict[int, Path], tmp_path: Path
) -> None:
    [path] = write_contact_sheets(grid_of_three(), videos, tmp_path)
    assert path.name == "contact-sheet.png"
    sheet = np.asarray(PIL.Image.open(path)).astype(float)
    # Frames 0, 2 and 3 of brightness 40, 120 and 160; 224 rounds to 220, white to 260.
    assert shades(sheet) == {40, 120, 160, 220, 260}


def test_the_side_by_side_video_runs_in_step_and_holds_the_end_of_what_is_shorter(
    videos: dict[int, Path], tmp_path: Path
) -> None:
    [path] = write_side_by_side(grid_of_three(), videos, tmp_path)
    found = probe_mp4(path)
    assert (found.num_frames, found.fps, found.pix_fmt) == (8, 8.0, "yuv420p")
    frames = [
        np.frombuffer(raw, np.uint8).reshape(found.height, found.width, 3).astype(float)
        for raw in read_frames(path, found.width, found.height)
    ]
    # At a quarter of a second the slower one shows its second frame, the faster one its third.
    assert {80, 120} <= shades(frames[2])
    assert shades(frames[-1]) >= {160}


def test_a_large_grid_is_cut_into_pages(videos: dict[int, Path], tmp_path: Path) -> None:
    cells = [cell(number, 0, {"motion_bucket_id": number}) for number in range(13)]
    paths = write_contact_sheets(cells, videos, tmp_path)
    assert [path.name for path in paths] == ["contact-sheet-1.png", "contact-sheet-2.png"]
