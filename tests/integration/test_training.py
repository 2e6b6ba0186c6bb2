"""Training at the preset `smoke`: every stage, resuming, several processes, the checkpoint, the evaluation."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from safetensors.torch import load_file

from training.__main__ import main
from training.clips import draw_bucket
from training.config import STAGES
from training.edm import SIGMA_MAX, Preconditioning, draw_sigma
from training.embedding import ImageEmbedder
from training.metrics import mean_flow, psnr, ssim
from training.motion import CameraMotion, amounts, sampling_grid, warp
from training.pictures import load_picture, to_image

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "docs" / "samples"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    for stage in STAGES:
        assert main([stage, "--preset", "smoke", "--run", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def checkpoint(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    assert main(["export", str(directory), "--run", str(run)]) == 0
    return directory


def same(one: Path, other: Path) -> bool:
    left, right = load_file(one), load_file(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_the_checkpoint_loads_in_the_plain_pipeline_and_makes_frames(checkpoint: Path) -> None:
    pipe = StableVideoDiffusionPipeline.from_pretrained(checkpoint)
    pipe.set_progress_bar_config(disable=True)
    image = PIL.Image.new("RGB", (32, 32), "red")
    frames = pipe(image, width=32, height=32, num_frames=4, num_inference_steps=1, output_type="np").frames
    assert frames.shape == (1, 4, 32, 32, 3)
    assert np.isfinite(frames).all()


@pytest.fixture
def begun(run: Path, tmp_path: Path) -> Path:
    """A copy of the run whose last stage was stopped half-way."""
    folder = tmp_path / "begun"
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "unet")
    assert main(["unet", "--run", str(folder), "--stop-after", "0"]) == 3
    assert torch.load(folder / "unet" / "state.pt")["step"] == 4
    return folder


def test_a_stage_that_is_killed_in_its_middle_goes_on_and_ends_with_the_same_weights(
    run: Path, begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # So many steps that it cannot end before it is killed; until their decay begins they are the same.
    command = [sys.executable, "-m", "training", "unet", "--run", str(begun), "--steps", "1000000"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "unet: goes on from step 4 of 1000000\n"
        assert main(["unet", "--run", str(begun)]) == 2
        assert f"another process trains in {begun}" in capsys.readouterr().err
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=20) == -signal.SIGKILL
    assert not (begun / "unet" / "weights.safetensors").exists()
    assert main(["unet", "--run", str(begun)]) == 0
    assert same(begun / "unet" / "weights.safetensors", run / "unet" / "weights.safetensors")


def test_a_stage_that_is_killed_after_its_last_save_ends_with_the_same_weights(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "vae" / "weights.safetensors").unlink()
    assert main(["vae", "--run", str(folder)]) == 0
    assert same(folder / "vae" / "weights.safetensors", run / "vae" / "weights.safetensors")


def test_a_state_that_is_damaged_or_of_another_network_ends_with_one_sentence(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = begun / "unet" / "state.pt"
    whole = path.read_bytes()
    other = torch.load(path)
    other["masters"]["conv_in.weight"] = torch.zeros(1)
    torch.save(other, begun / "other.pt")
    for damaged in (b"", b"abc", whole[: len(whole) // 2], (begun / "other.pt").read_bytes()):
        path.write_bytes(damaged)
        capsys.readouterr()
        assert main(["unet", "--run", str(begun)]) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {path} cannot be used (")
        assert line.endswith("or remove it to begin the stage anew")


def test_what_is_no_number_any_more_is_not_saved(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = begun / "unet" / "state.pt"
    state = torch.load(path)
    state["masters"]["conv_out.bias"].fill_(torch.nan)
    torch.save(state, path)
    before = path.read_bytes()
    # Of so many steps none is the last, which is always reported.
    assert main(["unet", "--run", str(begun), "--steps", "1000000", "--stop-after", "0"]) == 1
    assert "error: the loss is no finite number any more by step 8" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert not (begun / "unet" / "weights.safetensors").exists()


@pytest.mark.parametrize("killed", [False, True])
def test_an_unfinished_run_is_exported_over_a_checkpoint_and_touches_nothing_else(
    begun: Path, checkpoint: Path, tmp_path: Path, killed: bool
) -> None:
    directory = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, directory)
    if killed:
        # What an export that was killed while it put the files in their places has left.
        (directory / ".partial" / "vae").mkdir(parents=True)
        (directory / "model_index.json").rename(directory / ".partial" / "model_index.json")
        assert main(["evaluate", str(directory)]) == 2
    own = directory / "notes.txt"
    own.touch(mode=0o600)
    assert main(["export", str(directory), "--run", str(begun), "--unfinished"]) == 0
    name = "unet/diffusion_pytorch_model.safetensors"
    assert not same(directory / name, checkpoint / name)
    assert (own.stat().st_mode & 0o777, (directory / name).stat().st_mode & 0o777) == (0o600, 0o644)
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        [*(path.name for path in checkpoint.iterdir()), "notes.txt"]
    )
    records = [json.loads(line) for line in (checkpoint / "training-log.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(record["stage"] for record in records)) == list(STAGES)
    assert all(record["elapsed_s"] > 0 for record in records if "measures" not in record)


def test_a_slim_copy_of_an_unfinished_run_goes_on_elsewhere(run: Path, begun: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    assert main(["slim", str(moved), "--run", str(begun)]) == 0
    state = torch.load(moved / "unet" / "state.pt")
    assert "optimizer" not in state
    assert state["average"]["conv_in.weight"].dtype == torch.float16
    assert main(["unet", "--run", str(moved)]) == 0
    assert not same(moved / "unet" / "weights.safetensors", run / "unet" / "weights.safetensors")


def test_two_processes_train_one_model_in_bfloat16_on_own_images(tmp_path: Path) -> None:
    command = [
        # With `--cpu` it starts one process, however many are asked for: the environment says CPU instead.
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
        *("-m", "training", "vae"),
        *("--preset", "smoke", "--run", str(tmp_path), "--images", str(SAMPLES), "--precision", "bfloat16"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "vae" / "log.jsonl").read_text().splitlines()]
    assert records[-1]["processes"] == 2
    assert records[-1]["measures"]["psnr_db"] > 5
    assert (tmp_path / "vae" / "weights.safetensors").exists()


def test_the_evaluation_writes_its_table_and_sheets_and_fails_a_bad_model(checkpoint: Path, tmp_path: Path) -> None:
    command = ["evaluate", str(checkpoint), "--photos", str(SAMPLES), "--output", str(tmp_path), "--seeds", "1"]
    assert main([*command, "--width", "64", "--height", "32", "--num-frames", "4", "--steps", "1"]) == 1
    report = (tmp_path / "report.md").read_text()
    assert "| rocket | 255 | 0.02 |" in report
    assert "| NO |" in report
    records = json.loads((tmp_path / "measures.json").read_text())
    assert len(records["measures"]) == 12
    assert records["settings"]["device"] in ("cpu", "cuda")
    assert records["settings"]["threads"] == torch.get_num_threads()
    with PIL.Image.open(tmp_path / "chelsea-bucket-127-noise-0.02.png") as sheet:
        assert sheet.size == (6 * 64, 2 * 32)


def test_the_embedding_in_training_is_that_of_the_pipeline(checkpoint: Path) -> None:
    pipe = StableVideoDiffusionPipeline.from_pretrained(checkpoint)
    picture = load_picture(SAMPLES / "rocket.jpg", 256, 128)
    theirs = pipe._encode_image(to_image(picture), torch.device("cpu"), 1, False)
    ours = ImageEmbedder(pipe.image_encoder, torch.device("cpu"))(picture[None])
    assert torch.allclose(ours, theirs[:, 0], atol=1e-3)


def test_preconditioning_is_that_of_diffusers_scheduler(checkpoint: Path) -> None:
    pipe = StableVideoDiffusionPipeline.from_pretrained(checkpoint)
    scheduler = pipe.scheduler
    scheduler.set_timesteps(5)
    noisy, prediction = torch.randn(2, 1, 1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for index in range(5):
        sigma, timestep = scheduler.sigmas[index], scheduler.timesteps[index]
        own = Preconditioning.of(sigma[None])
        assert torch.allclose(own.noise, timestep[None].float(), atol=1e-5)
        assert torch.allclose(own.into * noisy, scheduler.scale_model_input(noisy, timestep), atol=1e-6)
        step = scheduler.step(prediction, timestep, noisy)
        assert torch.allclose(own.denoised(noisy, prediction), step.pred_original_sample, atol=1e-4)
        assert torch.allclose(own.target(own.denoised(noisy, prediction), noisy), prediction, atol=1e-3)


def test_levels_and_buckets_are_drawn_where_a_small_model_has_the_most_to_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    levels, buckets = draw_sigma(50_000, generator), draw_bucket(50_000, generator)
    # Of SVD's own levels half are above e, and 1 in 70 above 88.
    assert 0.5 < float((levels > np.e).float().mean()) < 0.6
    assert 0.08 < float((levels > 88).float().mean()) < 0.1
    assert float((levels > SIGMA_MAX).float().mean()) < 0.001
    assert (int(buckets.min()), int(buckets.max())) == (0, 255)
    assert 0.66 < float((buckets > 127).float().mean()) < 0.71


def test_motion_starts_at_the_photo_and_grows_with_the_bucket_as_the_flow_finds() -> None:
    picture = load_picture(SAMPLES / "chelsea.png", 256, 128)
    motion = CameraMotion.of(torch.tensor([[1.0, 0.5, 0.3, -0.5]]))
    flows = []
    for bucket in (20, 127, 255):
        grid = sampling_grid(motion, amounts(torch.tensor([bucket]), torch.tensor([7.0]), 14), 256, 128)
        frames = warp(picture[None], grid)[0]
        assert float(psnr(frames[:1], picture[None])) > 50
        way = float((grid[0, -1] - grid[0, 0]).norm(dim=-1).mean())
        flows.append(mean_flow(picture, frames[-1]))
        assert flows[-1] == pytest.approx(way, rel=0.35)
    assert flows[0] < flows[1] / 3 < flows[2] / 5


def test_similarity_is_one_for_the_same_picture_and_falls_with_noise() -> None:
    picture = load_picture(SAMPLES / "rocket.jpg", 128, 64)[None]
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    assert float(ssim(picture, picture)) == pytest.approx(1.0)
    assert 0.2 < float(ssim((picture + 0.2 * noise).clamp(-1, 1), picture)) < 0.9
