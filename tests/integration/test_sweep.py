"""`animatic sweep` on a service that really runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import PIL.Image
from click.testing import CliRunner
from support import BOOTSTRAP_KEY, Service

from cli.main import cli
from shared.exit_codes import ExitCode
from shared.video import probe_mp4

SAMPLES = Path(__file__).parents[2] / "docs" / "samples"
PHOTOS = (SAMPLES / "rocket.jpg", SAMPLES / "chelsea.png")
SMALL = ("--width", "128", "--height", "64", "--num-frames", "3", "--num-inference-steps", "1", "--model", "double")


def run(service: Service, *arguments: str | Path) -> Any:
    variables = {"ANIMATIC_URL": service.url, "ANIMATIC_API_KEY": BOOTSTRAP_KEY}
    return CliRunner().invoke(cli, [*map(str, arguments)], env=variables)


def test_a_sweep_leaves_its_videos_a_table_and_pictures_and_is_found_again(service: Service, tmp_path: Path) -> None:
    service.start_all()
    folder = tmp_path / "results"
    done = run(service, "sweep", *PHOTOS, *SMALL, "--motion-bucket-id", "60,180,240", "--json", "-o", folder)
    assert done.exit_code == 0, (done.stderr, done.exception)
    result = json.loads(done.stdout)
    experiment = result["experiment"]
    assert (experiment["status"], experiment["counts"]["succeeded"]) == ("finished", 6)
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["motion_bucket_id"]) for row in rows] == [
        (image, value) for image in ("rocket", "chelsea") for value in ("60", "180", "240")
    ]
    assert len({row["seed"] for row in rows}) == 1  # drawn once
    assert all(float(row["denoise_s"]) > 0 and row["video_url"].startswith(service.url) for row in rows)
    assert len(list((folder / "videos").glob("*.mp4"))) == 6
    with PIL.Image.open(folder / "contact-sheet.png") as sheet:
        # Three columns, and for each of two images three moments.
        assert sheet.width > 3 * 128
        assert sheet.height > 6 * 64
    assert probe_mp4(folder / "side-by-side.mp4").num_frames == 3
    # The double pans further with a higher bucket.
    flow = next(effect for effect in result["effects"] if effect["measure"] == "flow_px")
    assert flow["means"]["60"] < flow["means"]["240"]

    # Attached again, nothing is fetched that is there; and people get words.
    before = {path: path.stat().st_mtime_ns for path in (folder / "videos").iterdir()}
    done = run(service, "sweep", "--attach", experiment["id"], "-o", folder)
    assert done.exit_code == 0, done.stderr
    assert "More motion_bucket_id gave more flow_px" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (folder / "videos").iterdir()} == before

    listed = run(service, "experiments", "list").stdout
    assert f"{experiment['id']}  motion_bucket_id  finished  6 of 6 succeeded" in listed
    shown = run(service, "experiments", "show", experiment["id"]).stdout
    assert shown.count("succeeded") == 7


def test_an_experiment_is_steered_and_a_canceled_one_ends_with_1(service: Service, tmp_path: Path) -> None:
    service.start_api()  # and no worker: nothing ends by itself
    submitted = run(service, "sweep", PHOTOS[0], *SMALL, "--seed", "1,2", "--detach")
    assert submitted.exit_code == 0, submitted.stderr
    assert "no worker serves double right now" in submitted.stderr
    name = submitted.stdout.strip()
    for verb, status in (("pause", "paused"), ("resume", "running"), ("cancel", "finished"), ("retry", "finished")):
        assert f"{name} {status}" in run(service, "experiments", verb, name).stdout
    done = run(service, "sweep", "--attach", name, "-o", tmp_path)
    assert done.exit_code == ExitCode.JOB_FAILED
    assert "2 of 2 cells did not succeed; the first, rocket at seed 1, canceled" in done.stderr
    assert (tmp_path / "results.csv").exists()

    refused = run(service, "sweep", *PHOTOS, *SMALL, "--max-guidance-scale", "2", "--min-guidance-scale", "1,9")
    assert refused.exit_code == ExitCode.USAGE
    assert "the cell of min_guidance_scale 9" in refused.stderr
