"""The SVD engine on a CUDA device, with the `tiny` checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import pytest

from shared.catalogue import find_entry, resolve
from shared.errors import OutOfMemoryError
from shared.params import GenerationOptions, GenerationParams
from shared.settings import Settings
from shared.states import Phase
from worker.load import load
from worker.pipeline import VideoPipeline

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def loaded(model_dir: Path, **values: Any) -> VideoPipeline:
    return load(Settings(model_dir=str(model_dir), **{"device": "cuda", **values}), find_entry("tiny"))


def params(**options: Any) -> GenerationParams:
    return resolve(GenerationOptions(**{"seed": 1, **options}), find_entry("tiny"))


def photo() -> PIL.Image.Image:
    red = np.tile(np.linspace(20, 235, 256, dtype=np.uint8), (128, 1))
    return PIL.Image.fromarray(np.dstack([red, red[:, ::-1], np.full_like(red, 60)]))


def ignore(_phase: Phase, _step: int, _total: int) -> None:
    """Progress that nobody looks at."""


def test_the_gpu_is_chosen_with_float16_and_named(model_dir: Path) -> None:
    info = loaded(model_dir, device="auto").info
    assert info.dtype == "float16"
    assert info.device not in ("cuda", "cpu")


def test_the_same_seed_gives_the_same_frames_bit_for_bit(model_dir: Path) -> None:
    pipeline = loaded(model_dir)
    first = pipeline.generate(photo(), params(), ignore).frames
    assert np.array_equal(pipeline.generate(photo(), params(), ignore).frames, first)
    assert not np.array_equal(pipeline.generate(photo(), params(seed=2), ignore).frames, first)


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offload_gives_the_same_frames(model_dir: Path, offload: Literal["model", "sequential"]) -> None:
    plain = loaded(model_dir, engine="stock").generate(photo(), params(), ignore).frames
    pipeline = loaded(model_dir, offload=offload)
    for _ in range(2):
        again = pipeline.generate(photo(), params(), ignore)
        assert np.array_equal(again.frames, plain)
        assert again.drift is not None


def test_gpu_and_cpu_show_the_same_video_for_one_seed(model_dir: Path) -> None:
    on_gpu = loaded(model_dir, dtype="float32").generate(photo(), params(), ignore).frames
    on_cpu = loaded(model_dir, device="cpu").generate(photo(), params(), ignore).frames
    assert np.abs(on_gpu.astype(int) - on_cpu.astype(int)).mean() < 2


def test_a_full_gpu_is_retryable_and_leaves_no_memory_behind(model_dir: Path) -> None:
    import torch

    pipeline = loaded(model_dir)
    pipeline.generate(photo(), params(), ignore)
    before = torch.cuda.memory_allocated()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**20) / torch.cuda.mem_get_info()[1])
    try:
        with pytest.raises(OutOfMemoryError):
            pipeline.generate(photo().resize((512, 512)), params(width=512, height=512, num_frames=25), ignore)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.cuda.memory_allocated() <= before + 2**20
    assert pipeline.generate(photo(), params(), ignore).frames.shape == (14, 128, 256, 3)
