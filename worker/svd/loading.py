"""From settings and a catalogue entry to a loaded pipeline on its device."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import StableVideoDiffusionPipeline

from shared.catalogue import ModelEntry, resolve
from shared.errors import StartupError
from shared.exit_codes import ExitCode
from shared.params import GenerationOptions
from shared.settings import Settings
from worker.checkpoint import ResolvedCheckpoint, model_root
from worker.pipeline import PipelineInfo, installed_versions
from worker.preflight import check_device, check_model
from worker.svd.engine import SvdEngine, SvdPipeline
from worker.svd.exact import ExactEngine
from worker.svd.fast import FastEngine, choose_options
from worker.svd.kernels.cache import use_kernel_cache
from worker.svd.kernels.support import find_obstacle
from worker.svd.stock import StockEngine

log = logging.getLogger(__name__)

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def load_pipeline(settings: Settings, entry: ModelEntry) -> SvdPipeline:
    """Load an SVD checkpoint that is on this machine.

    Raises:
        StartupError: files, device or memory are not as needed.
    """
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    if settings.offload != "none" and device.type == "cpu":
        raise StartupError(
            f"ANIMATIC_OFFLOAD={settings.offload} moves a GPU's memory to the CPU, and the device is the CPU: "
            "set it to none",
            exit_code=ExitCode.CONFIG,
        )
    obstacle = None
    if device.type == "cuda":
        # Kernels of our own and events go to the current device, whatever device their tensors are on.
        torch.cuda.set_device(device)
        obstacle = find_obstacle(device)
    tier = choose_engine(settings, device, obstacle)
    checkpoint = check_model(settings, entry)
    if checkpoint is None:
        raise StartupError(f"{entry.name} has no checkpoint to load", exit_code=ExitCode.MODEL_UNAVAILABLE)
    with ThreadPoolExecutor(1) as aside:
        # Hashing gigabytes takes as long as all the rest.
        revision = aside.submit(lambda: checkpoint.commit or checkpoint.fingerprint())
        pipe = _read(checkpoint, dtype)
        with _fitting(entry.name, device):
            _place(pipe, device, settings.offload)
            engine = _make_engine(tier, pipe, device, settings)
        info = PipelineInfo(
            model=entry.name,
            source=entry.repository or str(Path(entry.directory or checkpoint.directory.name)),
            revision="",
            engine=f"fast({','.join(settings.fast_levers)})" if tier == "fast" else tier,
            device=_device_name(device),
            dtype=str(dtype).removeprefix("torch."),
            offload=settings.offload,
            num_threads=torch.get_num_threads(),
            versions=installed_versions("torch", "diffusers", "transformers", "accelerate"),
        )
        pipeline = SvdPipeline(engine, info, measure_drift=settings.measures)
        if device.type == "cuda" and isinstance(engine, ExactEngine):
            use_kernel_cache(model_root(settings) / "kernels")
            # Only the kernels matter here, so few steps do.
            params = resolve(GenerationOptions(seed=0, num_inference_steps=engine.warm_up_steps), entry)
            try:
                pipeline.warm_up(params)
            except Exception as error:  # a compiler's, a driver's or a device's: each has errors of its own
                raise StartupError(
                    f"the kernels of the engine tier {tier} do not run on {info.device}: {_first_line(error)}; "
                    "if the device is sound, set ANIMATIC_ENGINE=stock",
                    exit_code=ExitCode.DEVICE_UNAVAILABLE,
                ) from error
    pipeline.info = replace(info, revision=revision.result())
    return pipeline


def _make_engine(tier: str, pipe: StableVideoDiffusionPipeline, device: torch.device, settings: Settings) -> SvdEngine:
    if tier == "stock":
        return StockEngine(pipe, device)
    if tier == "fast":
        return FastEngine(pipe, device, options=choose_options(settings.fast_levers))
    return ExactEngine(pipe, device)


def choose_engine(settings: Settings, device: torch.device, obstacle: str | None) -> str:
    """The engine tier for this device.

    Args:
        obstacle: why the kernels of `exact` and `fast` cannot run there, as a clause.

    Raises:
        StartupError: what was asked for cannot run there, or not with the offload that was asked for.
    """
    if settings.engine == "auto":
        if device.type != "cuda" or settings.offload != "none":
            return "stock"
        if obstacle is not None:
            log.warning("the engine tier is stock, which takes twice as long as exact, because %s", obstacle)
        return "exact" if obstacle is None else "stock"
    if settings.engine != "stock" and settings.offload != "none":
        raise StartupError(
            f"ANIMATIC_ENGINE={settings.engine} keeps all weights on the device, and "
            f"ANIMATIC_OFFLOAD={settings.offload} moves them: set ANIMATIC_OFFLOAD=none or ANIMATIC_ENGINE=stock",
            exit_code=ExitCode.CONFIG,
        )
    if settings.engine != "stock" and obstacle is not None:
        raise StartupError(
            f"the kernels of ANIMATIC_ENGINE={settings.engine} cannot run here: {obstacle}; mend that, or set "
            "ANIMATIC_ENGINE to auto or stock",
            exit_code=ExitCode.DEVICE_UNAVAILABLE,
        )
    return settings.engine


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto`: CUDA before MPS before the CPU.

    Raises:
        StartupError: it is not there.
    """
    check_device(name)
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise StartupError(
            f"{name} was asked for, but torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices: "
            "check the driver and that torch was installed with CUDA",
            exit_code=ExitCode.DEVICE_UNAVAILABLE,
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise StartupError("mps was asked for, but torch has none here", exit_code=ExitCode.DEVICE_UNAVAILABLE)
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; `auto`: float16 on a GPU, float32 on the CPU, which computes float16 slowly."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    return _DTYPES[name]


def _read(checkpoint: ResolvedCheckpoint, dtype: torch.dtype) -> StableVideoDiffusionPipeline:
    try:
        pipe = StableVideoDiffusionPipeline.from_pretrained(
            checkpoint.directory,
            variant=checkpoint.variant,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        # Preflight saw whole files and fitting configs; what is left is weights that do not fit them.
        raise StartupError(
            f"{checkpoint.directory} cannot be loaded as an SVD checkpoint: {_first_line(error)}",
            exit_code=ExitCode.MODEL_INVALID,
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _place(pipe: StableVideoDiffusionPipeline, device: torch.device, offload: str) -> None:
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.to(device)


@contextmanager
def _fitting(name: str, device: torch.device) -> Iterator[None]:
    """For what allocates the model's own memory.

    Raises:
        StartupError: the device has not enough.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise StartupError(
            f"{name} does not fit into the memory of {_device_name(device)}: set ANIMATIC_OFFLOAD to model or "
            "sequential, and ANIMATIC_ENGINE to auto or stock",
            exit_code=ExitCode.DEVICE_UNAVAILABLE,
        ) from error


def _device_name(device: torch.device) -> str:
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else device.type


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
