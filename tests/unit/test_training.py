"""What of the training needs no torch: presets, the schedule, the gates, and what is refused before it begins."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import PIL.Image
import pytest

from training.__main__ import main
from training.config import PRESETS, STAGES, Preset
from training.errors import TrainingError, replacing
from training.folder import RunFolder
from training.gates import check_gates
from training.log import StageLog, join_logs, read_log
from training.photo_files import BUNDLED, find_photos, open_photo
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


@pytest.mark.parametrize("bucket", [20, 127, 255])
def test_a_plain_photo_in_which_nothing_moves_closes_gates_instead_of_failing(bucket: int) -> None:
    found = videos()
    for video in found:
        if video.photo == "cat" and video.motion_bucket_id == bucket:
            video.flow_px = video.flicker = video.intended_flicker = 0.0
    assert not all(gate.holds for gate in check_gates(found))


@pytest.mark.parametrize("name", ["first_db", "last_ssim", "flow_px"])
def test_a_measure_that_is_no_number_closes_its_gate_wherever_it_stands(name: str) -> None:
    for position in (1, -5):
        found = videos()
        setattr(found[position], name, math.nan)
        assert not all(gate.holds for gate in check_gates(found))


def test_help_comes_without_torch() -> None:
    script = "import sys, training.__main__; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with one small photo."""
    (tmp_path / "images").mkdir()
    PIL.Image.new("RGB", (8, 8), "red").save(tmp_path / "images" / "red.png")
    return tmp_path / "images"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that was begun with the preset `smoke` and the photos that come along, and whose first stage is done."""
    folder = RunFolder(tmp_path / "run")
    folder.begin(PRESETS["smoke"], BUNDLED)
    folder.weights("vae").parent.mkdir()
    folder.weights("vae").touch()
    return folder


def refusal(capsys: pytest.CaptureFixture[str], *command: object, code: int = 2) -> str:
    """The sentence with which a command is refused."""
    assert main([str(part) for part in command]) == code
    [line] = capsys.readouterr().err.splitlines()
    return line.removeprefix("error: ")


@pytest.mark.parametrize("wrong", ["missing", "empty", "file", "broken"])
def test_images_that_cannot_be_trained_on_are_refused_before_a_run_is_begun(
    wrong: str, tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    broken = tmp_path / "broken" / "half.png"
    broken.write_bytes((images / "red.png").read_bytes()[:50])
    paths = {"file": images / "red.png"}
    path, run = paths.get(wrong, tmp_path / wrong), tmp_path / "run"
    said = refusal(capsys, "vae", "--preset", "smoke", "--run", run, "--images", path)
    expected = {
        "missing": f"{path} is not a folder: name one with files that end in .jpg, .jpeg, .png, .webp",
        "empty": f"{path} has no photo in it: name one with files that end in .jpg, .jpeg, .png, .webp",
        "file": f"{path} is not a folder",
        "broken": f"{broken} cannot be decoded (",
    }
    assert said.startswith(expected[wrong])
    assert not run.exists()


@pytest.mark.parametrize(
    ("picture", "seen"),
    [
        (PIL.Image.new("RGBA", (8, 8), (255, 0, 0, 0)), (255, 255, 255)),
        (PIL.Image.new("I;16", (8, 8), 128 * 257), (128, 128, 128)),
        (PIL.Image.new("L", (8, 8), 128), (128, 128, 128)),
    ],
    ids=["transparent", "16 bits", "grey"],
)
def test_photos_are_trained_on_as_the_service_sees_them(
    picture: PIL.Image.Image, seen: tuple[int, ...], tmp_path: Path
) -> None:
    picture.save(tmp_path / "photo.png")
    assert open_photo(tmp_path / "photo.png").getcolors() == [(64, seen)]


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_stage_before_its_predecessor_is_refused_before_a_run_is_begun(
    stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, stage, "--preset", "smoke", "--run", tmp_path / "run")
    assert said == f"the stage {stage} builds on vae, which is not done in {tmp_path / 'run'}: train vae first"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["export", "slim"])
def test_a_run_that_is_not_there_is_not_made_by_what_reads_it(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, command, tmp_path / "made", "--run", tmp_path / "typo")
    assert said == f"{tmp_path / 'typo'} is not the folder of a run, it has no run.json: name one as --run"
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_run_is_not_exported_unless_it_is_asked_for(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, "export", tmp_path / "made", "--run", run.path)
    assert said.startswith(
        f"the stage temporal-decoder is not done in {run.path}: train it first, or pass --unfinished"
    )
    said = refusal(capsys, "export", tmp_path / "made", "--run", run.path, "--unfinished")
    assert said.startswith(f"{run.path} has no image encoder")
    assert not (tmp_path / "made").exists()


def test_a_folder_that_holds_something_else_gets_no_checkpoint(
    run: RunFolder, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (*(run.weights(stage) for stage in STAGES), run.image_encoder):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    said = refusal(capsys, "export", images, "--run", run.path)
    assert said.startswith(f"{images} holds something else than a checkpoint")
    assert "is a file" in refusal(capsys, "export", images / "red.png", "--run", run.path)
    assert "is the run itself" in refusal(capsys, "slim", run.path, "--run", run.path)


def test_a_done_stage_says_so(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vae", "--run", str(run.path)]) == 0
    assert capsys.readouterr().err == f"vae: done already, in {run.weights('vae')}\n"


def test_a_run_goes_on_only_with_what_it_was_begun_with(
    run: RunFolder, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unet = ("unet", "--run", run.path)
    said = refusal(capsys, *unet, "--preset", "tiny")
    assert said == f"{run.path} was begun with the preset smoke, not tiny: take another folder as --run"
    said = refusal(capsys, *unet, "--images", images)
    assert said.startswith(f"{run.path} was begun with the photos of {BUNDLED}, and those of {images} are others: pass")

    record = json.loads(run.record.read_text())
    record["preset"]["unet.reuse"] = 1
    record["preset"]["seed"] = 1
    run.record.write_text(json.dumps(record))
    said = refusal(capsys, *unet)
    assert "was begun with other values of unet.reuse, seed than the preset smoke has now" in said


def test_leaving_images_out_does_not_mix_in_the_photos_that_come_along(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(PRESETS["smoke"], images)
    said = refusal(capsys, "vae", "--run", folder.path)
    assert f"was begun with the photos of {images}" in said
    PIL.Image.new("RGB", (8, 8), "blue").save(images / "red.png")
    assert "are others" in refusal(capsys, "vae", "--run", folder.path, "--images", images)


def test_a_record_that_is_old_damaged_or_gone_ends_with_one_sentence(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    run.record.write_text('{"preset": "smoke", "seed": 20231121}')
    assert f"{run.record} is of an older version" in refusal(capsys, "unet", "--run", run.path)
    for damaged in ('{"preset"', "[]", '{"preset": {"name": "smoke"}}', '{"photos": {}}'):
        run.record.write_text(damaged)
        assert f"{run.record} cannot be used (" in refusal(capsys, "unet", "--run", run.path, code=1)
    run.record.unlink()
    assert "has stages but no run.json" in refusal(capsys, "unet", "--run", run.path)


def test_only_a_checkpoint_is_evaluated_and_only_on_photos(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, "evaluate", images)
    assert said == f"{images} is no checkpoint, it has no model_index.json: make one with `export`"
    (images / "model_index.json").touch()
    (tmp_path / "empty").mkdir()
    assert "has no photo in it" in refusal(capsys, "evaluate", images, "--photos", tmp_path / "empty")


def test_a_checkpoint_is_not_measured_on_what_it_was_trained_on(
    run: RunFolder, tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "model_index.json").touch()
    photo = find_photos(BUNDLED)[0]
    renamed = images / f"renamed{photo.suffix}"
    renamed.write_bytes(photo.read_bytes())
    said = refusal(capsys, "evaluate", tmp_path / "checkpoint", "--photos", images, "--run", run.path)
    assert said.startswith(f"{renamed} is one of the photos that {run.path} was trained on")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("vae --steps 0", "argument --steps: must be a whole number of at least 1, got 0"),
        ("vae --steps=-4", "argument --steps: must be a whole number of at least 1, got -4"),
        ("vae --minutes 0", "argument --minutes: must be a number above 0, got 0"),
        ("vae --minutes nan", "argument --minutes: must be a number of at least 0, got nan"),
        ("vae --stop-after=-1", "argument --stop-after: must be a number of at least 0, got -1"),
        ("evaluate x --seeds 0", "argument --seeds: must be a whole number of at least 1, got 0"),
        ("evaluate x --width 100", "argument --width: must be a multiple of 32 of at least 32, got 100"),
        ("evaluate x --num-frames 1", "argument --num-frames: must be a whole number of at least 2, got 1"),
    ],
)
def test_numbers_out_of_range_are_refused_with_the_range(
    command: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(command.split())
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(said)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    path.write_text("before")
    # Every write to /dev/full finds the disk full.
    (tmp_path / "state.pt.partial").symlink_to("/dev/full")
    sentence = r"state\.pt could not be written \(No space left on device\)"
    with pytest.raises(TrainingError, match=sentence), replacing(path) as partial:
        partial.write_text("after")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("state.pt", "before")]


def test_a_log_has_no_step_twice_after_a_kill(tmp_path: Path) -> None:
    path, target = tmp_path / "log.jsonl", tmp_path / "joined.jsonl"
    log = StageLog(path, "vae")
    for step in (2, 4, 6):
        log.write({"step": step, "loss": 1.0, "elapsed_s": step / 2})
    log.write({"step": 6, "measures": {"psnr_db": 20.0}})
    with path.open("a") as file:
        file.write('{"step": 8, "lo')
    assert [record["step"] for record in read_log(path)] == [2, 4, 6, 6]
    log.drop_beyond(4)
    log.write({"step": 6, "loss": 0.5, "elapsed_s": 3.0})
    join_logs({"vae": path, "unet": tmp_path / "none.jsonl"}, target)
    lines = target.read_text().splitlines()
    assert lines[0] == '{"stage": "vae", "step": 2, "loss": 1.0, "elapsed_s": 1.0}'
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6]
    path.write_text('{"step\n{}\n')
    with pytest.raises(TrainingError, match=r"log\.jsonl cannot be used"):
        read_log(path)
