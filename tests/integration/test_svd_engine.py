"""The SVD engine with the real `tiny` checkpoint, through diffusers, on the CPU."""

from __future__ import annotations

import itertools
import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from safetensors.torch import load_file, save_file

from shared.catalogue import find_entry, resolve
from shared.errors import DeviceLostError, InvalidOutputError, OutOfMemoryError, StartupError
from shared.exit_codes import ExitCode
from shared.params import GenerationOptions, GenerationParams
from shared.settings import Settings
from shared.states import Phase
from worker.checkpoint import TINY
from worker.load import load
from worker.pipeline import VideoFrames
from worker.preflight import check_model
from worker.svd.drift import measure_drift
from worker.svd.engine import SvdPipeline, check_frames
from worker.svd.kernels.cache import use_kernel_cache
from worker.svd.kernels.support import find_missing_tool
from worker.svd.loading import choose_engine, load_pipeline


def params(**options: Any) -> GenerationParams:
    chosen = {"width": 64, "height": 64, "num_frames": 4, "num_inference_steps": 3, "seed": 1, **options}
    return resolve(GenerationOptions(**chosen), find_entry("tiny"))


def photo(width: int = 64, height: int = 64) -> PIL.Image.Image:
    red = np.tile(np.linspace(20, 235, width, dtype=np.uint8), (height, 1))
    return PIL.Image.fromarray(np.dstack([red, red[:, ::-1], np.full_like(red, 60)]))


def ignore(_phase: Phase, _step: int, _total: int) -> None:
    """Progress that nobody looks at."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(model_dir=str(tmp_path_factory.mktemp("models")), device="cpu")


@pytest.fixture(scope="module")
def pipeline(settings: Settings) -> SvdPipeline:
    loaded = load(settings, find_entry("tiny"))
    assert isinstance(loaded, SvdPipeline)
    return loaded


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The tiny checkpoint in a directory that a test may damage."""
    return Path(shutil.copytree(TINY, tmp_path / "checkpoint"))


@pytest.fixture(scope="module")
def usual(pipeline: SvdPipeline) -> VideoFrames:
    return pipeline.generate(photo(), params(), ignore).frames


def test_the_same_seed_gives_the_same_frames_bit_for_bit(pipeline: SvdPipeline, usual: VideoFrames) -> None:
    assert usual.shape == (4, 64, 64, 3)
    assert usual.dtype == np.uint8
    assert np.array_equal(pipeline.generate(photo(), params(), ignore).frames, usual)


@pytest.mark.parametrize(
    "options", [{"seed": 2}, {"motion_bucket_id": 10}, {"fps": 20}, {"noise_aug_strength": 0.5}], ids=str
)
def test_every_condition_reaches_the_frames(pipeline: SvdPipeline, usual: VideoFrames, options: dict[str, Any]) -> None:
    assert not np.array_equal(pipeline.generate(photo(), params(**options), ignore).frames, usual)


def test_the_video_resembles_its_photo_and_not_another(pipeline: SvdPipeline, usual: VideoFrames) -> None:
    distance = np.abs(usual[0].astype(int) - np.asarray(photo()).astype(int)).mean()
    mirrored = np.abs(usual[0].astype(int) - np.asarray(photo())[:, ::-1].astype(int)).mean()
    assert distance < 30 < mirrored


@pytest.mark.parametrize("options", [{}, {"decode_chunk_size": 2}, {"max_guidance_scale": 3.0}], ids=str)
def test_frames_equal_those_of_diffusers_own_pipeline(pipeline: SvdPipeline, options: dict[str, Any]) -> None:
    chosen = params(**options)
    stock = StableVideoDiffusionPipeline.from_pretrained(TINY)
    levels = stock(
        photo(),
        **chosen.model_dump(
            include={
                *("width", "height", "num_frames", "num_inference_steps", "fps", "motion_bucket_id"),
                *("noise_aug_strength", "min_guidance_scale", "max_guidance_scale", "decode_chunk_size"),
            }
        ),
        generator=torch.Generator().manual_seed(chosen.seed),
        output_type="np",
    ).frames[0]
    ours = pipeline.generate(photo(), chosen, ignore)
    assert np.array_equal((levels * 255).round().astype(np.uint8), ours.frames)
    assert ours.decode_chunk_size == chosen.decode_chunk_size


def test_guidance_of_one_but_for_rounding_is_none(pipeline: SvdPipeline, usual: VideoFrames) -> None:
    generation = pipeline.generate(photo(), params(max_guidance_scale=1.00000001), ignore)
    assert np.array_equal(generation.frames, usual)


def test_progress_counts_steps_then_frames(pipeline: SvdPipeline) -> None:
    heard: list[tuple[Phase, int, int]] = []
    done = pipeline.generate(photo(), params(decode_chunk_size=3), lambda *progress: heard.append(progress))
    assert heard == [(Phase.DENOISE, step, 3) for step in range(4)] + [(Phase.DECODE, n, 4) for n in (0, 3, 4)]
    assert set(done.timings_s) == {"encode_image", "denoise", "decode", "drift"}
    assert all(seconds > 0 for seconds in done.timings_s.values())


class Stop(Exception):  # noqa: N818
    """What a canceled job raises."""


@pytest.mark.parametrize("at", [(Phase.DENOISE, 0), (Phase.DENOISE, 2), (Phase.DECODE, 0), (Phase.DECODE, 2)])
def test_a_stop_comes_through_within_the_step_and_the_next_job_is_as_ever(
    pipeline: SvdPipeline, usual: VideoFrames, at: tuple[Phase, int]
) -> None:
    heard = []

    def stop(phase: Phase, step: int, _total: int) -> None:
        heard.append((phase, step))
        if (phase, step) == at:
            raise Stop

    with pytest.raises(Stop):
        pipeline.generate(photo(), params(decode_chunk_size=2), stop)
    assert heard[-1] == at
    assert np.array_equal(pipeline.generate(photo(), params(), ignore).frames, usual)


def run_out_of_memory(part: torch.nn.Module, above: int) -> Any:
    """Let a part of the model fail as a full device does, on batches larger than `above`."""

    def fail(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].shape[0] > above:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return part.register_forward_pre_hook(fail)


def test_out_of_memory_in_decode_halves_the_chunk_and_says_so(pipeline: SvdPipeline) -> None:
    expected = pipeline.generate(photo(), params(decode_chunk_size=1), ignore)
    with run_out_of_memory(pipeline.engine.pipe.vae.decoder, above=1):
        backed_off = pipeline.generate(photo(), params(decode_chunk_size=4), ignore)
    assert backed_off.decode_chunk_size == 1
    assert np.array_equal(backed_off.frames, expected.frames)


def test_out_of_memory_frame_by_frame_is_retryable_and_the_pipeline_lives(
    pipeline: SvdPipeline, usual: VideoFrames
) -> None:
    with (
        run_out_of_memory(pipeline.engine.pipe.vae.decoder, above=0),
        pytest.raises(OutOfMemoryError, match="frame by frame"),
    ):
        pipeline.generate(photo(), params(), ignore)
    with (
        run_out_of_memory(pipeline.engine.pipe.unet, above=0),
        pytest.raises(
            OutOfMemoryError, match=r"denoising 4 frames of 64×64: ask for fewer or smaller frames$"
        ) as caught,
    ):
        pipeline.generate(photo(), params(), ignore)
    assert caught.value.retryable
    assert np.array_equal(pipeline.generate(photo(), params(), ignore).frames, usual)


def test_a_failed_kernel_is_told_from_errors_that_leave_the_device_usable(pipeline: SvdPipeline) -> None:
    def fail(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCompile with …")

    with (
        pipeline.engine.pipe.unet.register_forward_pre_hook(fail),
        pytest.raises(DeviceLostError, match=r"cpu failed: CUDA error: an illegal memory access was encountered$"),
    ):
        pipeline.generate(photo(), params(), ignore)
    with (
        pipeline.engine.pipe.image_encoder.register_forward_pre_hook(_after_calls(1, fail)),
        pytest.raises(DeviceLostError),
    ):
        pipeline.generate(photo(), params(), ignore)  # the second call is the drift's, without which a job can do


def test_a_failed_kernel_that_is_told_while_a_stopped_job_is_cleaned_up_is_a_lost_device(
    pipeline: SvdPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise Stop

    def fail() -> None:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(pipeline.engine, "free", fail)
    with pytest.raises(DeviceLostError, match="unspecified launch failure"):
        pipeline.generate(photo(), params(), stop)


def _after_calls(count: int, then: Callable[..., None]) -> Callable[..., None]:
    calls = itertools.count()
    return lambda *arguments: None if next(calls) < count else then(*arguments)


def spoil(checkpoint: Path, component: str, value: float) -> None:
    path = checkpoint / component / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    layer = "conv_out" if component == "unet" else "decoder.conv_out"
    spoiled = {name: torch.full_like(weights[name], value) for name in (f"{layer}.weight", f"{layer}.bias")}
    save_file({**weights, **spoiled}, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("component", "value", "said"),
    [("unet", float("nan"), "NaN"), ("vae", float("nan"), "NaN"), ("vae", 0.0, "constant")],
)
def test_a_model_that_gives_no_picture_is_an_error(
    copied: Path, settings: Settings, component: str, value: float, said: str
) -> None:
    spoil(copied, component, value)
    broken = load(settings, find_entry(f"broken={copied}"))
    with pytest.raises(InvalidOutputError, match=said):
        broken.generate(photo(), params(), ignore)


def test_one_black_frame_is_an_error(usual: VideoFrames) -> None:
    frames = usual.copy()
    frames[2] = 1
    check_frames(usual)
    with pytest.raises(InvalidOutputError, match="frame 2 is black"):
        check_frames(frames)


def test_the_info_names_weights_versions_and_device(pipeline: SvdPipeline) -> None:
    info = pipeline.info
    assert (info.model, info.engine, info.device, info.dtype, info.offload) == (
        "tiny",
        "stock",
        "cpu",
        "float32",
        "none",
    )
    assert info.revision.startswith("sha256:")
    assert {"python", "torch", "diffusers", "transformers", "accelerate"} <= set(info.versions)


def test_a_directory_with_only_fp16_files_loads(tmp_path: Path, settings: Settings) -> None:
    stock = StableVideoDiffusionPipeline.from_pretrained(TINY, dtype=torch.float16)
    stock.save_pretrained(tmp_path, variant="fp16")
    assert not list(tmp_path.rglob("model.safetensors"))
    loaded = load(settings, find_entry(f"half={tmp_path}"))
    assert loaded.info.dtype == "float32"
    assert loaded.generate(photo(), params(), ignore).frames.shape == (4, 64, 64, 3)


def test_a_truncated_checkpoint_is_refused_before_loading(copied: Path, settings: Settings) -> None:
    weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1000)
    for check in (check_model, load_pipeline):
        with pytest.raises(StartupError, match="truncated") as caught:
            check(settings, find_entry(f"cut={copied}"))
        assert caught.value.exit_code == ExitCode.MODEL_INVALID


def test_weights_that_do_not_fit_their_config_are_one_sentence(copied: Path, settings: Settings) -> None:
    config = copied / "unet" / "config.json"
    config.write_text(config.read_text().replace('"layers_per_block": 1', '"layers_per_block": 2'))
    with pytest.raises(StartupError, match="cannot be loaded") as caught:
        load(settings, find_entry(f"odd={copied}"))
    assert caught.value.exit_code == ExitCode.MODEL_INVALID
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offload_without_a_gpu_is_a_setting_error(offload: str, settings: Settings) -> None:
    with pytest.raises(StartupError, match="ANIMATIC_OFFLOAD") as caught:
        load(settings.model_copy(update={"offload": offload}), find_entry("tiny"))
    assert caught.value.exit_code == ExitCode.CONFIG


def test_the_exact_engine_serves_on_the_cpu_too(settings: Settings, usual: VideoFrames) -> None:
    exact = load(settings.model_copy(update={"engine": "exact"}), find_entry("tiny"))
    assert exact.info.engine == "exact"
    frames = exact.generate(photo(), params(), ignore).frames
    assert np.abs(frames.astype(int) - usual.astype(int)).max() <= 1
    assert np.array_equal(exact.generate(photo(), params(), ignore).frames, frames)


def test_the_exact_engine_stops_and_backs_off_as_stock_does(settings: Settings) -> None:
    exact = load(settings.model_copy(update={"engine": "exact"}), find_entry("tiny"))
    assert isinstance(exact, SvdPipeline)
    expected = exact.generate(photo(), params(decode_chunk_size=1), ignore)

    def stop(phase: Phase, step: int, _total: int) -> None:
        if (phase, step) == (Phase.DENOISE, 2):
            raise Stop

    with pytest.raises(Stop):
        exact.generate(photo(), params(), stop)
    with run_out_of_memory(exact.engine.pipe.vae.decoder, above=1):
        exact.warm_up(params())
        backed_off = exact.generate(photo(), params(decode_chunk_size=4), ignore)
    assert backed_off.decode_chunk_size == 1
    assert np.array_equal(backed_off.frames, expected.frames)


def test_exact_and_offload_do_not_go_together(settings: Settings) -> None:
    wrong = settings.model_copy(update={"engine": "exact", "offload": "model"})
    with pytest.raises(StartupError, match="ANIMATIC_ENGINE=stock") as caught:
        choose_engine(wrong, torch.device("cuda"), None)
    assert caught.value.exit_code == ExitCode.CONFIG
    assert choose_engine(settings.model_copy(update={"offload": "model"}), torch.device("cuda"), None) == "stock"
    assert choose_engine(settings, torch.device("cuda"), None) == "exact"
    assert choose_engine(settings, torch.device("cpu"), None) == "stock"


def test_where_kernels_cannot_run_stock_does_unless_another_engine_was_asked_for(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    device, obstacle = torch.device("cuda"), "there is no C compiler"
    assert choose_engine(settings, device, obstacle) == "stock"
    assert obstacle in caplog.text
    with pytest.raises(StartupError, match=f"cannot run here: {obstacle}; .* ANIMATIC_ENGINE to auto") as caught:
        choose_engine(settings.model_copy(update={"engine": "fast"}), device, obstacle)
    assert caught.value.exit_code == ExitCode.DEVICE_UNAVAILABLE


def test_what_triton_needs_to_compile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no C compiler" in (find_missing_tool() or "")
    (tmp_path / "gcc").write_text("#!/bin/sh\n")
    (tmp_path / "gcc").chmod(0o755)
    monkeypatch.setattr(sysconfig, "get_paths", lambda _scheme: {"include": str(tmp_path)})
    assert f"headers are not in {tmp_path}" in (find_missing_tool() or "")
    (tmp_path / "Python.h").touch()
    assert find_missing_tool() is None


def test_kernels_are_kept_where_they_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "")  # so that it is taken back afterwards
    monkeypatch.delenv("TRITON_CACHE_DIR")
    use_kernel_cache(tmp_path / "kernels")
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "kernels")
    monkeypatch.delenv("TRITON_CACHE_DIR")
    (tmp_path / "file").touch()
    use_kernel_cache(tmp_path / "file" / "kernels")
    elsewhere = Path(os.environ["TRITON_CACHE_DIR"])
    assert os.access(elsewhere, os.W_OK)
    elsewhere.rmdir()


def test_drift_grows_as_frames_leave_their_image(pipeline: SvdPipeline) -> None:
    image = np.asarray(photo(128, 64))
    mirrored = np.stack([image, image[:, ::-1], image[:, ::-1]])
    embed = pipeline.engine.embed
    assert measure_drift(embed, np.stack([image] * 3), image) == 0
    one = measure_drift(embed, mirrored[1:], image)
    assert one is not None
    assert one > 0.01
    assert measure_drift(embed, mirrored, image) == pytest.approx(one * 2 / 3, abs=1e-4)
    generation = pipeline.generate(photo(), params(), ignore)
    assert generation.drift == measure_drift(embed, generation.frames, generation.image)


def test_every_engine_measures_drift_unless_measures_are_off(settings: Settings, pipeline: SvdPipeline) -> None:
    exact = load(settings.model_copy(update={"engine": "exact", "measures": False}), find_entry("tiny"))
    assert isinstance(exact, SvdPipeline)
    generation = exact.generate(photo(), params(), ignore)
    assert generation.drift is None
    assert "drift" not in generation.timings_s
    drift = measure_drift(exact.engine.embed, generation.frames, generation.image)
    assert drift == measure_drift(pipeline.engine.embed, generation.frames, generation.image)
    assert drift is not None
    assert drift > 0


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), torch.AcceleratorError("CUDA error: out of memory")],
    ids=["of torch", "of CUDA"],
)
def test_an_image_encoder_without_memory_costs_the_drift_and_not_the_video(
    pipeline: SvdPipeline, usual: VideoFrames, error: Exception
) -> None:
    def fail(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].shape[0] > 1:
            raise error

    hook = pipeline.engine.pipe.image_encoder.register_forward_pre_hook(fail)
    try:
        generation = pipeline.generate(photo(), params(), ignore)
    finally:
        hook.remove()
    assert generation.drift is None
    assert np.array_equal(generation.frames, usual)


@pytest.mark.parametrize(("engine", "dtype"), [("stock", "bfloat16"), ("exact", "bfloat16"), ("exact", "float16")])
def test_16_bits_show_the_same_video(settings: Settings, usual: VideoFrames, engine: str, dtype: str) -> None:
    loaded = load(settings.model_copy(update={"engine": engine, "dtype": dtype}), find_entry("tiny"))
    assert loaded.info.dtype == dtype
    frames = loaded.generate(photo(), params(), ignore).frames
    assert 0 < np.abs(frames.astype(int) - usual.astype(int)).mean() < 1
