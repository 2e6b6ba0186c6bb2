"""The fast tier: what is reused, and that nothing of it reaches another job."""

from __future__ import annotations

import copy

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline

from bench.svd.architecture import TOY, make_pipeline
from bench.svd_speed import make_params, make_photo
from shared.catalogue import find_entry
from shared.settings import Settings
from shared.states import Phase
from worker.load import load
from worker.pipeline import VideoFrames
from worker.svd.conditioning import encode
from worker.svd.exact import ExactEngine
from worker.svd.fast import FastEngine, FastOptions, FeatureReuse, choose_options
from worker.svd.sampler import consistency_step
from worker.svd.stopwatch import Stopwatch

CPU = torch.device("cpu")
PARAMS = make_params(4, 64, 64, 7, 3.0)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def stock() -> StableVideoDiffusionPipeline:
    return make_pipeline(TOY, device=CPU, dtype=torch.float32)


def fresh(stock: StableVideoDiffusionPipeline) -> StableVideoDiffusionPipeline:
    return StableVideoDiffusionPipeline(**{name: copy.deepcopy(part) for name, part in stock.components.items()})


def run(engine: ExactEngine, photo: PIL.Image.Image | None = None) -> torch.Tensor:
    return engine.denoise(photo or make_photo(64, 64), PARAMS, lambda _step: None, Stopwatch())


@pytest.mark.parametrize("layers", [1, 2])
def test_with_an_interval_of_one_it_is_the_exact_tier(stock: StableVideoDiffusionPipeline, layers: int) -> None:
    exact = ExactEngine(fresh(stock), CPU)
    fast = FastEngine(fresh(stock), CPU, options=FastOptions(interval=1, layers=layers))
    assert torch.equal(run(fast), run(exact))


@pytest.mark.parametrize("layers", [1, 2])
def test_where_nothing_changes_between_two_steps_reuse_changes_nothing(
    stock: StableVideoDiffusionPipeline, layers: int
) -> None:
    reuse = FeatureReuse(stock.unet, interval=2, layers=layers)
    # 10 rows are halved to 5 and 3, which doubled are 6.
    inputs = {
        "sample": torch.randn(2, 3, 8, 10, 12),
        "timestep": torch.tensor(0.5),
        "encoder_hidden_states": torch.randn(2, 1, 32),
        "added_time_ids": torch.tensor([[6.0, 127.0, 0.02]]).repeat(2, 1),
    }
    deep: list[int] = []
    with torch.no_grad(), stock.unet.mid_block.register_forward_pre_hook(lambda *_: deep.append(1)):
        (full,), (reused,) = reuse(**inputs), reuse(**inputs)
        (whole,) = stock.unet(**inputs, return_dict=False)
    assert len(deep) == 2
    assert torch.equal(reused, full)
    assert torch.allclose(full, whole, atol=1e-5)


@pytest.mark.parametrize(("interval", "computed"), [(2, 4), (3, 3), (10, 1)])
def test_deep_features_are_computed_once_in_each_interval(
    stock: StableVideoDiffusionPipeline, interval: int, computed: int
) -> None:
    pipe = fresh(stock)
    engine = FastEngine(pipe, CPU, options=FastOptions(interval=interval))
    deep, outer = [], []
    pipe.unet.mid_block.register_forward_pre_hook(lambda *_: deep.append(1))
    pipe.unet.conv_out.register_forward_pre_hook(lambda *_: outer.append(1))
    run(engine)
    assert (len(deep), len(outer)) == (computed, 7)


def test_guidance_ends_after_its_share_of_the_steps_and_reuse_goes_on(stock: StableVideoDiffusionPipeline) -> None:
    pipe = fresh(stock)
    options = FastOptions(interval=3, guided_share=0.5)
    branches: list[int] = []
    pipe.unet.conv_in.register_forward_pre_hook(lambda _module, inputs: branches.append(inputs[0].shape[0] // 4))
    alone = run(FastEngine(pipe, CPU, options=options))
    assert branches == [2, 2, 2, 2, 1, 1, 1]
    assert alone.isfinite().all()


def test_what_is_left_without_guidance_is_what_a_job_without_it_has(stock: StableVideoDiffusionPipeline) -> None:
    photo = make_photo(64, 64)
    left = encode(stock, photo, PARAMS, CPU).without_guidance()
    unguided = encode(stock, photo, PARAMS.model_copy(update={"max_guidance_scale": 1.0}), CPU)
    assert left.guidance_scale is unguided.guidance_scale is None
    for name in ("embedding", "image_latents", "time_ids", "noise"):
        assert torch.equal(getattr(left, name), getattr(unguided, name))


def test_a_consistency_step_lands_on_the_image_and_ends_there(stock: StableVideoDiffusionPipeline) -> None:
    sigma, end = torch.tensor(2.0), torch.tensor(0.0)
    image, noise = torch.randn(2, 1, 2, 4, 8, 8)
    latents = image + sigma * noise
    # What a perfect network predicts: v, with the signal's share of 1 / √(σ² + 1).
    prediction = (noise - sigma * image) / (sigma**2 + 1) ** 0.5
    landed = consistency_step(latents, prediction, sigma, end, generator=torch.Generator())
    assert torch.allclose(landed, image, atol=1e-5)
    again = consistency_step(latents, prediction, sigma, torch.tensor(0.5), generator=torch.Generator().manual_seed(1))
    assert 0.4 < float((again - image).std()) < 0.6
    engine = FastEngine(fresh(stock), CPU, options=choose_options(["consistency", "reuse"]))
    assert torch.equal(run(engine), run(engine))


def test_a_job_sees_nothing_of_the_one_before_even_if_that_was_stopped(stock: StableVideoDiffusionPipeline) -> None:
    engine = FastEngine(fresh(stock), CPU)
    alone = run(engine)
    other = PIL.Image.fromarray(255 - np.asarray(make_photo(64, 64)))
    assert not torch.equal(run(engine, other), alone)

    def stop(step: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.denoise(other, PARAMS, stop, Stopwatch())
    assert torch.equal(run(engine), alone)


@pytest.mark.parametrize(("options", "said"), [((0, 1), "interval"), ((2, 0), "layers"), ((2, 9), "layers")])
def test_options_out_of_range_are_named(
    stock: StableVideoDiffusionPipeline, options: tuple[int, int], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        FeatureReuse(stock.unet, interval=options[0], layers=options[1])


def test_the_manifest_will_say_fast() -> None:
    loaded = load(Settings(device="cpu", engine="fast"), find_entry("tiny"))
    assert loaded.info.engine == "fast(reuse)"
    frames: VideoFrames = loaded.generate(make_photo(64, 64), PARAMS, ignore).frames
    assert frames.shape == (4, 64, 64, 3)


def ignore(_phase: Phase, _step: int, _total: int) -> None:
    """Progress that nobody looks at."""
