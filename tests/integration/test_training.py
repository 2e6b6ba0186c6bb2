"""Training at the preset `smoke`: every stage, resuming, several processes, the checkpoint, the evaluation."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
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


def test_a_killed_stage_goes_on_and_ends_with_the_same_weights(run: Path, tmp_path: Path) -> None:
    for part in ("vae", "temporal-decoder", "image-encoder"):
        shutil.copytree(run / part, tmp_path / part)
    (tmp_path / "run.json").write_bytes((run / "run.json").read_bytes())
    command = [sys.executable, "-m", "training", "unet", "--run", str(tmp_path)]
    state = tmp_path / "unet" / "state.pt"
    process = subprocess.Popen([*command, "--stop-after", "0"], cwd=ROOT, stderr=subprocess.DEVNULL)
    assert process.wait(timeout=120) == 3
    assert torch.load(state)["step"] == 4
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "unet" / "log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=20)
    assert main(["unet", "--run", str(tmp_path)]) == 0
    assert same(tmp_path / "unet" / "weights.safetensors", run / "unet" / "weights.safetensors")


def test_a_slim_copy_of_an_unfinished_run_goes_on_elsewhere(run: Path, tmp_path: Path) -> None:
    begun, moved = tmp_path / "begun", tmp_path / "moved"
    shutil.copytree(run, begun)
    shutil.rmtree(begun / "unet")
    assert main(["unet", "--run", str(begun), "--stop-after", "0"]) == 3
    assert main(["slim", str(moved), "--run", str(begun)]) == 0
    state = torch.load(moved / "unet" / "state.pt")
    assert "optimizer" not in state
    assert state["average"]["conv_in.weight"].dtype == torch.float16
    assert main(["unet", "--run", str(moved)]) == 0
    assert not same(moved / "unet" / "weights.safetensors", run / "unet" / "weights.safetensors")


def test_a_stage_before_its_predecessor_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["unet", "--preset", "smoke", "--run", str(tmp_path)]) == 2
    assert "the stage vae is not done" in capsys.readouterr().err


def test_two_processes_train_one_model_in_bfloat16_on_own_images(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "training", "vae"),
        *("--preset", "smoke", "--run", str(tmp_path), "--images", str(SAMPLES), "--precision", "bfloat16"),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=240
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "vae" / "log.jsonl").read_text().splitlines()]
    assert records[-1]["measures"]["psnr_db"] > 5
    assert (tmp_path / "vae" / "weights.safetensors").exists()


def test_the_evaluation_writes_its_table_and_sheets_and_fails_a_bad_model(checkpoint: Path, tmp_path: Path) -> None:
    command = ["evaluate", str(checkpoint), "--photos", str(SAMPLES), "--output", str(tmp_path), "--seeds", "1"]
    assert main([*command, "--width", "64", "--height", "32", "--num-frames", "4", "--steps", "1"]) == 1
    report = (tmp_path / "report.md").read_text()
    assert "| rocket | 255 | 0.02 |" in report
    assert "| NO |" in report
    assert len(json.loads((tmp_path / "measures.json").read_text())["measures"]) == 12
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
