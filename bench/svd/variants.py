"""What is compared: diffusers' pipeline as its users run it, and our tiers."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers import StableVideoDiffusionPipeline

from bench.svd.architecture import Architecture, make_pipeline
from shared.params import GenerationParams
from shared.states import Phase
from worker.pipeline import PipelineInfo, VideoFrames
from worker.svd.engine import SvdPipeline
from worker.svd.exact import ExactEngine
from worker.svd.fast import FastEngine, choose_options
from worker.svd.rewrites import REWRITES
from worker.svd.stock import call_arguments

#: the checkpoint that comes with Animatic.
TINY = Path(__file__).parents[2] / "worker" / "svd" / "tiny"

#: a call: frames [t h w c] and seconds by stage, as far as the variant tells.
Call = Callable[[PIL.Image.Image, GenerationParams], tuple[VideoFrames, dict[str, float]]]

DESCRIPTIONS = {
    "b0": "diffusers, eager, float16, its defaults",
    "b1": "diffusers, UNet compiled as its documentation says (reduce-overhead, full graph)",
    "b2": "diffusers, UNet and VAE compiled, channels-last",
    "exact": "Animatic, exact tier",
    "fast": "Animatic, fast tier; fast:LEVER+LEVER chooses its levers",
}
#: those of diffusers that need its compiler.
COMPILED = ("b1", "b2")


@dataclass(frozen=True)
class Setup:
    """What all variants of a run share."""

    #: with random weights; None for the checkpoint `tiny`.
    architecture: Architecture | None
    device: torch.device
    dtype: torch.dtype
    without: Collection[str] = ()


def make_variant(name: str, setup: Setup) -> Call:
    """A variant on weights of its own, the same for all."""
    pipe = _make_pipeline(setup)
    if name == "exact" or name.startswith("fast"):
        return _ours(name, pipe, setup)
    if name == "b1":
        pipe.unet = torch.compile(pipe.unet, mode="reduce-overhead", fullgraph=True)
    elif name == "b2":
        for module in [*pipe.unet.modules(), *pipe.vae.modules()]:
            if isinstance(module, torch.nn.Conv2d):
                module.to(memory_format=torch.channels_last)
        pipe.unet = torch.compile(pipe.unet, fullgraph=True)
        pipe.vae.decoder = torch.compile(pipe.vae.decoder, fullgraph=True)
    return _stock(pipe)


def describe(name: str) -> str:
    """A variant in words."""
    tier, _, levers = name.partition(":")
    return f"Animatic, fast tier ({levers})" if levers else DESCRIPTIONS[tier]


def _make_pipeline(setup: Setup) -> StableVideoDiffusionPipeline:
    if setup.architecture is not None:
        return make_pipeline(setup.architecture, device=setup.device, dtype=setup.dtype)
    pipe = StableVideoDiffusionPipeline.from_pretrained(TINY, dtype=setup.dtype, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(setup.device)


def _stock(pipe: StableVideoDiffusionPipeline) -> Call:
    def call(image: PIL.Image.Image, params: GenerationParams) -> tuple[VideoFrames, dict[str, float]]:
        seconds: dict[str, float] = {}
        begin = time.monotonic()

        def on_step_end(_pipe: object, step: int, _timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
            if step == params.num_inference_steps - 1:
                torch.cuda.synchronize()
                seconds["encode and denoise"] = time.monotonic() - begin
            return tensors

        pictures = pipe(
            image,
            **call_arguments(params),
            decode_chunk_size=params.decode_chunk_size,
            callback_on_step_end=on_step_end if torch.cuda.is_available() else None,
        ).frames[0]
        seconds["decode"] = time.monotonic() - begin - seconds.get("encode and denoise", 0)
        return np.stack([np.asarray(picture) for picture in pictures]), seconds

    return call


def _ours(name: str, pipe: StableVideoDiffusionPipeline, setup: Setup) -> Call:
    rewrites = [each for each in REWRITES if each not in setup.without]
    if name == "exact":
        engine = ExactEngine(pipe, setup.device, rewrites=rewrites)
    else:
        options = choose_options((name.partition(":")[2] or "reuse").split("+"))
        engine = FastEngine(pipe, setup.device, options=options, rewrites=rewrites)
    info = PipelineInfo(name, "random", "0", name, str(setup.device), str(setup.dtype), "none", 1, {})
    pipeline = SvdPipeline(engine, info)
    is_warm = False

    def call(image: PIL.Image.Image, params: GenerationParams) -> tuple[VideoFrames, dict[str, float]]:
        nonlocal is_warm
        if not is_warm:
            # As a worker starts.
            pipeline.warm_up(params.model_copy(update={"num_inference_steps": engine.warm_up_steps}))
            is_warm = True
        # The first job with a photo is what is timed: later ones are spared the encoders.
        engine.encodings.clear()
        generation = pipeline.generate(image, params, _ignore)
        return generation.frames, generation.timings_s

    return call


def _ignore(_phase: Phase, _step: int, _total: int) -> None:
    """Nobody looks at the progress."""
