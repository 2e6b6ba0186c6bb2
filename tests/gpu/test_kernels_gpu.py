"""The Triton kernels against their references, on random input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worker.svd.kernels.geglu import geglu, geglu_reference
from worker.svd.kernels.group_norm import group_norm, group_norm_reference
from worker.svd.kernels.interleave import interleave, interleave_reference
from worker.svd.kernels.layer_norm import layer_norm, layer_norm_reference
from worker.svd.kernels.residual import add_offset, add_residual, add_residual_reference
from worker.svd.kernels.time_attention import time_attention, time_attention_reference
from worker.svd.kernels.time_convolution import time_convolution, time_convolution_reference

pytestmark = pytest.mark.gpu

#: relative error of a result in this type against float64.
BOUNDS = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 1e-5}


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype)


def error(ours: Tensor, truth: Tensor) -> float:
    assert ours.isfinite().all()
    return float((ours.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize(
    ("frames", "rows", "channels", "num_frames"),
    [(6, 100, 320, 1), (6, 100, 320, 3), (4, 9216, 64, 4), (3, 7, 2560, 1), (2, 5000, 96, 2), (1, 1, 64, 1)],
)
@pytest.mark.parametrize("with_offset", ["none", "by frame", "for all"])
def test_group_norm(
    dtype: torch.dtype, frames: int, rows: int, channels: int, num_frames: int, with_offset: str
) -> None:
    # Far from zero, where a variance of squares alone would be lost.
    x = (draw(frames, rows, channels) + 8 * draw(1, 1, channels)).to(dtype)
    drawn = draw(frames, channels) if with_offset == "by frame" else draw(1, channels).expand(frames, -1)
    offset = None if with_offset == "none" else drawn.to(dtype)
    weight, bias = draw(channels).to(dtype), draw(channels).to(dtype)
    for silu in (False, True):
        rest = (32, 1e-5, num_frames, silu)
        wide = None if offset is None else offset.double()
        truth = group_norm_reference(x.double(), wide, weight.double(), bias.double(), *rest)
        assert error(group_norm(x, offset, weight, bias, *rest), truth) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize(("n", "tokens", "channels", "offsets"), [(6, 101, 320, 2), (3, 7, 1280, 1), (4, 50, 96, 4)])
def test_layer_norm(dtype: torch.dtype, n: int, tokens: int, channels: int, offsets: int) -> None:
    x = (draw(n, tokens, channels) + 8).to(dtype)
    rest = [draw(*shape).to(dtype) for shape in ((offsets, channels), (channels,), (channels,))]
    truth = layer_norm_reference(x.double(), *(each.double() for each in rest), 1e-5)
    assert error(layer_norm(x, *rest, 1e-5), truth) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("shape", [(2, 25, 30, 5, 64), (1, 14, 9, 2, 32), (2, 1, 4, 1, 128), (1, 40, 3, 2, 64)])
def test_time_attention(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    batch, frames, pixels, heads, dim = shape
    qkv = draw(batch, frames, pixels, 3, heads, dim).to(dtype)
    assert error(time_attention(qkv), time_attention_reference(qkv.double())) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("m", "k", "n"),
    [(1000, 320, 1280), (77, 640, 2560), (40_001, 320, 256), (30_000, 640, 2560), (300, 1280, 512), (50, 100, 30)],
)
def test_geglu(dtype: torch.dtype, m: int, k: int, n: int) -> None:
    x, weight, bias = draw(m, k).to(dtype), (draw(2 * n, k) / k**0.5).to(dtype), draw(2 * n).to(dtype)
    truth = geglu_reference(x.double(), weight.double(), bias.double())
    assert error(geglu(x, weight, bias), truth) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize(
    ("batch", "frames", "pixels", "channels", "outputs"),
    [(2, 25, 1030, 64, 128), (1, 3, 2000, 128, 192), (1, 1, 1024, 64, 64), (1, 4, 100, 64, 64), (1, 2, 1500, 48, 40)],
)
def test_time_convolution(
    dtype: torch.dtype, batch: int, frames: int, pixels: int, channels: int, outputs: int
) -> None:
    x = draw(batch, frames, pixels, channels).to(dtype)
    weight = (draw(outputs, 3, channels) / channels**0.5).to(dtype)
    truth = time_convolution_reference(x.double(), weight.double())
    with torch.backends.cudnn.flags(allow_tf32=False):
        assert error(time_convolution(x, weight), truth) < BOUNDS[dtype]


@pytest.mark.parametrize("k", [64, 320, 640])
def test_the_tails_of_the_gate_are_precise(k: int) -> None:
    x = torch.zeros(128, k, device="cuda", dtype=torch.float16)
    gate = torch.linspace(-6, 6, 128, device="cuda", dtype=torch.float16)
    weight = torch.zeros(256, k, device="cuda", dtype=torch.float16)
    bias = torch.cat([torch.ones_like(gate), gate])
    truth = torch.nn.functional.gelu(gate.double())
    ours = geglu(x, weight, bias)[0].double()
    assert ((ours - truth).abs() <= truth.abs() * 1e-3 + 1e-7).all()


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize(("rows", "channels", "biases"), [(200, 320, 2), (7, 1280, 1), (9216, 96, 4)])
def test_add_residual(dtype: torch.dtype, rows: int, channels: int, biases: int) -> None:
    x, residual, bias = (draw(count, channels).to(dtype) for count in (rows, rows, biases))
    truth = x.double()
    add_residual_reference(truth, residual.double(), bias.double())
    add_residual(x, residual, bias)
    assert error(x, truth) < BOUNDS[dtype]


@pytest.mark.parametrize("pixels", [100, 2000])
def test_time_convolution_adds_bias_and_residual(pixels: int) -> None:
    x, residual = draw(2, 5, pixels, 128), draw(2, 5, pixels, 192)
    weight, bias = draw(192, 3, 128) / 20, draw(192)
    given = [each.half() for each in (x, weight, residual, bias)]
    truth = time_convolution_reference(*(each.double() for each in given))
    assert error(time_convolution(*given), truth) < BOUNDS[torch.float16]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_interleave(dtype: torch.dtype) -> None:
    phases, bias = draw(3, 8, 11, 4 * 96).to(dtype), draw(96).to(dtype)
    assert error(interleave(phases, bias), interleave_reference(phases.double(), bias.double())) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_add_offset(dtype: torch.dtype) -> None:
    x, offset = draw(6, 101, 320).to(dtype), draw(6, 320).to(dtype)
    assert error(add_offset(x, offset), x.double() + offset.double()[:, None]) < BOUNDS[dtype]
