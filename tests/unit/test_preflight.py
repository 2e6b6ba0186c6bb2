"""What is wrong with a model or a device is said before a worker starts, in one sentence, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.catalogue import find_entry
from shared.errors import StartupError
from shared.exit_codes import ExitCode
from shared.settings import Settings
from worker.checkpoint import TINY, check_safetensors
from worker.preflight import check_device, check_model, count_cuda_devices

CONFIGS: dict[str, dict[str, Any]] = {
    "model_index.json": {"_class_name": "StableVideoDiffusionPipeline"},
    "unet/config.json": {
        "_class_name": "UNetSpatioTemporalConditionModel",
        "in_channels": 8,
        "out_channels": 4,
        "cross_attention_dim": 1024,
    },
    "vae/config.json": {"_class_name": "AutoencoderKLTemporalDecoder", "latent_channels": 4},
    "image_encoder/config.json": {"architectures": ["CLIPVisionModelWithProjection"], "projection_dim": 1024},
    "feature_extractor/preprocessor_config.json": {"feature_extractor_type": "CLIPImageProcessor"},
    "scheduler/scheduler_config.json": {
        "_class_name": "EulerDiscreteScheduler",
        "prediction_type": "v_prediction",
    },
}


def write_safetensors(path: Path, size: int = 16) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))


def write_checkpoint(directory: Path, infix: str = "") -> Path:
    for name, config in CONFIGS.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(json.dumps(config))
    for weights in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "image_encoder/model"):
        write_safetensors(directory / f"{weights}{infix}.safetensors")
    return directory


def refusal(directory: Path) -> StartupError:
    with pytest.raises(StartupError) as caught:
        check_model(Settings(), find_entry(f"mine={directory}"))
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("infix", ["", ".fp16"])
def test_a_whole_checkpoint_passes_with_and_without_variant(infix: str, tmp_path: Path) -> None:
    checkpoint = check_model(Settings(), find_entry(f"mine={write_checkpoint(tmp_path, infix)}"))
    assert checkpoint is not None
    assert checkpoint.variant == (infix.removeprefix(".") or None)
    assert len(checkpoint.files) == 9
    assert checkpoint.fingerprint().startswith("sha256:")


def test_the_fingerprint_changes_with_one_byte(tmp_path: Path) -> None:
    checkpoint = check_model(Settings(), find_entry(f"mine={write_checkpoint(tmp_path)}"))
    assert checkpoint is not None
    before = checkpoint.fingerprint()
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert checkpoint.fingerprint() != before


@pytest.mark.parametrize("name", [*CONFIGS, "unet/diffusion_pytorch_model.safetensors"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    (write_checkpoint(tmp_path) / name).unlink()
    error = refusal(tmp_path)
    assert error.exit_code == ExitCode.MODEL_INVALID
    assert Path(name).parts[-2 if "safetensors" in name else -1] in str(error)
    assert "copy the checkpoint again" in str(error)


@pytest.mark.parametrize("cut", [1, 20, 80])
def test_truncated_weights_are_found_without_reading_them(cut: int, tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path) / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-cut])
    error = refusal(tmp_path)
    assert error.exit_code == ExitCode.MODEL_INVALID
    assert "truncated" in str(error)


@pytest.mark.parametrize("content", [b"", b"\x01", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"])
def test_what_is_no_safetensors_file_is_found(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(StartupError, match=r"not a safetensors file|truncated"):
        check_safetensors(tmp_path / "x.safetensors", "fetch it again")


def test_every_shard_is_checked(tmp_path: Path) -> None:
    unet = write_checkpoint(tmp_path) / "unet"
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    shards = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    weight_map = dict(zip("ab", shards, strict=True))
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    write_safetensors(unet / shards[0])
    assert shards[1] in str(refusal(tmp_path))
    write_safetensors(unet / shards[1])
    assert check_model(Settings(), find_entry(f"mine={tmp_path}")) is not None


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, "StableDiffusionPipeline"),
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
        ("unet/config.json", {"in_channels": 4}, "in_channels must be twice"),
        ("unet/config.json", {"cross_attention_dim": 768}, "projection_dim"),
        ("vae/config.json", {"_class_name": "AutoencoderKL"}, "AutoencoderKL,"),
        ("image_encoder/config.json", {"architectures": ["CLIPTextModel"]}, "CLIPTextModel"),
        ("scheduler/scheduler_config.json", {"_class_name": "PNDMScheduler"}, "PNDMScheduler"),
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}, "v_prediction, got epsilon"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(name: str, change: dict[str, Any], said: str, tmp_path: Path) -> None:
    (write_checkpoint(tmp_path) / name).write_text(json.dumps({**CONFIGS[name], **change}))
    error = refusal(tmp_path)
    assert error.exit_code == ExitCode.MODEL_INVALID
    assert "not an SVD checkpoint" in str(error)
    assert said in str(error)


def test_a_directory_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    assert refusal(tmp_path / "missing").exit_code == ExitCode.MODEL_UNAVAILABLE


@pytest.mark.parametrize(("model", "said"), [("svd-xt", "animatic models pull svd-xt"), ("svd-xt-1.1", "HF_TOKEN")])
def test_a_model_that_was_not_pulled_says_how_to(model: str, said: str, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from shared.catalogue import find_entry\n"
        "from shared.errors import StartupError\n"
        "from shared.settings import Settings\n"
        "from worker.preflight import check_model\n"
        "try:\n"
        f"    check_model(Settings(), find_entry({model!r}))\n"
        "except StartupError as error:\n"
        "    print(error)\n"
        "    assert 'torch' not in sys.modules\n"
        "    sys.exit(error.exit_code)\n"
    )
    # A process of its own: huggingface_hub reads HF_HOME when it is imported.
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={"HF_HOME": str(tmp_path), "PATH": "", "HOME": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == ExitCode.MODEL_UNAVAILABLE, done.stderr
    assert said in done.stdout


def test_nothing_up_to_loading_imports_torch() -> None:
    modules = "worker.preflight, worker.load, worker.models, worker.double, worker.manifest, worker.media"
    script = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


def test_the_double_has_nothing_to_check() -> None:
    assert check_model(Settings(), find_entry("double")) is None


def test_the_embedded_model_is_whole_and_small() -> None:
    checkpoint = check_model(Settings(), find_entry("tiny"))
    assert checkpoint is not None
    assert (checkpoint.directory, checkpoint.variant) == (TINY, None)
    assert sum(path.stat().st_size for path in checkpoint.directory.rglob("*") if path.is_file()) <= 30_000_000


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_device_that_is_always_there_passes(device: str, tmp_path: Path) -> None:
    check_device(device, {}, tmp_path)


def gpus(dev: Path, count: int) -> Path:
    for index in range(count):
        (dev / f"nvidia{index}").touch()
    (dev / "nvidiactl").touch()
    return dev


@pytest.mark.parametrize(
    ("device", "count", "environ", "said"),
    [
        ("cuda", 0, {}, "no NVIDIA GPU is visible"),
        ("cuda:1", 1, {}, "only 1 NVIDIA GPUs are visible"),
        ("cuda:0", 2, {"CUDA_VISIBLE_DEVICES": "-1"}, "no NVIDIA GPU is visible"),
        ("cuda:1", 2, {"CUDA_VISIBLE_DEVICES": "1"}, "cuda:0 to cuda:0"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused(
    device: str, count: int, environ: dict[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(StartupError, match=said) as caught:
        check_device(device, environ, gpus(tmp_path, count))
    assert caught.value.exit_code == ExitCode.DEVICE_UNAVAILABLE


def test_a_gpu_that_is_there_passes(tmp_path: Path) -> None:
    check_device("cuda:1", {}, gpus(tmp_path, 2))
    assert count_cuda_devices({"CUDA_VISIBLE_DEVICES": "0,1,-1,2"}, gpus(tmp_path, 4)) == 2
    assert count_cuda_devices({"CUDA_VISIBLE_DEVICES": "GPU-8a1b"}, gpus(tmp_path, 4)) == 1


def test_a_malformed_device_is_a_setting_error(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="got 'gpu0'") as caught:
        check_device("gpu0", {}, tmp_path)
    assert caught.value.exit_code == ExitCode.CONFIG
