"""Each rewrite, alone and with all others, against diffusers' own pipeline from the same weights and seed."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection
from functools import cache
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from torch import Tensor

from bench.svd.architecture import TOY, make_pipeline
from shared.catalogue import find_entry, resolve
from shared.params import GenerationOptions, GenerationParams
from worker.svd.conditioning import encode, keep_encoder_in_float32
from worker.svd.kernels.time_convolution import time_convolution
from worker.svd.rewrites import RESIDUALS_NEED, REWRITES, rewrite
from worker.svd.rewrites.residuals import AccumulatingBlock, AccumulatingTimeBlock, AccumulatingTransformer
from worker.svd.sampler import decode, denoise, make_schedule, to_levels
from worker.svd.stock import call_arguments

CPU = torch.device("cpu")
#: relative error that rounding alone explains.
BOUNDS = {torch.float64: 1e-10, torch.float32: 1e-4}

pytestmark = pytest.mark.usefixtures("one_thread")


def params(**options: Any) -> GenerationParams:
    chosen = {"width": 64, "height": 64, "num_frames": 4, "num_inference_steps": 2, "max_guidance_scale": 3.0}
    return resolve(GenerationOptions(**{**chosen, "seed": 7, **options}), find_entry("tiny"))


def photo(params: GenerationParams) -> PIL.Image.Image:
    levels = np.random.default_rng(1).integers(0, 255, (params.height // 8, params.width // 8, 3), dtype=np.uint8)
    return PIL.Image.fromarray(levels).resize((params.width, params.height), PIL.Image.Resampling.BICUBIC)


def stock_latents(pipe: StableVideoDiffusionPipeline, chosen: GenerationParams) -> Tensor:
    return pipe(photo(chosen), **call_arguments(chosen), output_type="latent").frames


def our_latents(pipe: StableVideoDiffusionPipeline, chosen: GenerationParams) -> Tensor:
    conditioning = encode(pipe, photo(chosen), chosen, CPU)
    schedule = make_schedule(pipe, chosen.num_inference_steps, CPU)
    return denoise(pipe.unet, conditioning, schedule, lambda _step: None)


def distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


@cache
def make_stock(dtype: torch.dtype) -> StableVideoDiffusionPipeline:
    return make_pipeline(TOY, device=CPU, dtype=dtype)


@cache
def make_theirs(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Latents of the usual job, and the frames they decode to."""
    stock = make_stock(dtype)
    latents = stock_latents(stock, params())
    assert latents.isfinite().all()
    assert latents.std() > 0.1
    with torch.no_grad():
        scaled = latents.flatten(0, 1) / stock.vae.config.scaling_factor
        return latents, stock.vae.decode(scaled, num_frames=params().num_frames).sample


@pytest.fixture
def stock() -> StableVideoDiffusionPipeline:
    return make_stock(torch.float64)


@pytest.fixture
def theirs() -> tuple[Tensor, Tensor]:
    return make_theirs(torch.float64)


def rewritten(stock: StableVideoDiffusionPipeline, names: Collection[str]) -> StableVideoDiffusionPipeline:
    pipe = StableVideoDiffusionPipeline(**{name: copy.deepcopy(part) for name, part in stock.components.items()})
    rewrite(pipe.unet, pipe.vae, names)
    return pipe


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize(
    "names",
    [(), *[(name,) for name in REWRITES], (*RESIDUALS_NEED, "residuals"), tuple(REWRITES)],
    ids=",".join,
)
def test_a_rewrite_changes_nothing_but_rounding(dtype: torch.dtype, names: tuple[str, ...]) -> None:
    ours = rewritten(make_stock(dtype), names)
    theirs = make_theirs(dtype)
    bound = BOUNDS[dtype]
    assert distance(our_latents(ours, params()), theirs[0]) < bound
    assert distance(decode(ours.vae, theirs[0]), theirs[1]) < bound


@pytest.mark.parametrize("name", REWRITES)
def test_all_rewrites_but_one_go_together(
    stock: StableVideoDiffusionPipeline, theirs: tuple[Tensor, Tensor], name: str
) -> None:
    ours = rewritten(stock, set(REWRITES) - {name})
    assert distance(our_latents(ours, params()), theirs[0]) < BOUNDS[stock.unet.dtype]


@pytest.mark.parametrize(
    "options",
    [
        {"max_guidance_scale": 1.0},
        {"min_guidance_scale": 3.0},
        {"num_frames": 2, "num_inference_steps": 1},
        {"num_frames": 7},
        {"width": 128, "height": 64},
        {"fps": 20, "noise_aug_strength": 0.0},
    ],
    ids=str,
)
def test_every_shape_and_condition_works(stock: StableVideoDiffusionPipeline, options: dict[str, Any]) -> None:
    ours = rewritten(stock, tuple(REWRITES))
    chosen = params(**options)
    assert distance(our_latents(ours, chosen), stock_latents(stock, chosen)) < BOUNDS[stock.unet.dtype]
    # The constants of that job do not outlive it.
    assert distance(our_latents(ours, params()), stock_latents(stock, params())) < BOUNDS[stock.unet.dtype]


def test_transformers_of_several_blocks_are_rewritten_too() -> None:
    several = dataclasses.replace(TOY, unet={**TOY.unet, "transformer_layers_per_block": 2})
    stock = make_pipeline(several, device=CPU, dtype=torch.float64)
    ours = rewritten(stock, tuple(REWRITES))
    assert distance(our_latents(ours, params()), stock_latents(stock, params())) < BOUNDS[stock.unet.dtype]


def test_residuals_apply_to_all_layers_with_what_they_need_and_to_fewer_without(
    stock: StableVideoDiffusionPipeline,
) -> None:
    def count(names: Collection[str]) -> tuple[int, ...]:
        modules = [type(module) for module in rewritten(stock, names).unet.modules()]
        return tuple(map(modules.count, (AccumulatingBlock, AccumulatingTimeBlock, AccumulatingTransformer)))

    layers = sum(type(module).__name__ == "TransformerSpatioTemporalModel" for module in stock.unet.modules())
    assert layers > 0
    assert count({*RESIDUALS_NEED, "residuals"}) == (layers, layers, layers)
    for name in RESIDUALS_NEED:
        assert min(count({*RESIDUALS_NEED, "residuals"} - {name})) == 0


def test_levels_are_rounded_as_for_pil(stock: StableVideoDiffusionPipeline, theirs: tuple[Tensor, Tensor]) -> None:
    video = theirs[1].float()
    pictures = stock.video_processor.postprocess_video(video.transpose(0, 1)[None], output_type="pil")[0]
    assert np.array_equal(to_levels(video).numpy(), np.stack([np.asarray(picture) for picture in pictures]))


def test_the_encoder_alone_stays_in_float32() -> None:
    pipe = make_pipeline(TOY, device=CPU, dtype=torch.float16)
    keep_encoder_in_float32(pipe)
    assert {part.weight.dtype for part in (pipe.vae.quant_conv, pipe.vae.encoder.conv_in)} == {torch.float32}
    assert pipe.vae.decoder.conv_in.weight.dtype == torch.float16
    conditioning = encode(pipe, photo(params()), params(), CPU)
    assert conditioning.image_latents.dtype == torch.float16
    assert decode(pipe.vae, conditioning.noise).dtype == torch.float16


def test_half_of_the_end_of_a_convolution_over_frames_is_refused() -> None:
    x, weight = torch.ones(1, 2, 3, 4), torch.ones(4, 3, 4)
    with pytest.raises(ValueError, match="or neither; got one"):
        time_convolution(x, weight, x)


def test_a_rewrite_that_does_not_exist_is_named(stock: StableVideoDiffusionPipeline) -> None:
    with pytest.raises(ValueError, match="no such rewrite: faster; there are cross-attention"):
        rewrite(stock.unet, stock.vae, ["faster"])
