"""A convolution over three frames at each pixel, as one matrix product that reads each frame where it lies."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

try:
    import triton
    import triton.language as tl
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:  # torch for the CPU comes without it
    triton = None

_BLOCK_M, _BLOCK_K = 128, 64
#: below so many pixels, cuDNN's convolution is no slower.
_PIXELS_MIN = 1024


def time_convolution_reference(
    x: Tensor, weight: Tensor, residual: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """What `time_convolution` computes, by torch's own convolution of a picture whose rows are frames, [b c t s]."""
    kernel = weight.permute(0, 2, 1)[..., None]
    out = F.conv2d(x.permute(0, 3, 1, 2), kernel, bias, padding=(1, 0)).permute(0, 2, 3, 1).contiguous()
    return out if residual is None else out + residual


def time_convolution(x: Tensor, weight: Tensor, residual: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Sum over k of x[t + k − 1] weight[k]ᵀ, with zeros before the first frame and after the last; rounded once.

    Args:
        x: [b t s i], contiguous.
        weight: [o 3 i], contiguous.
        residual: [b t s o], contiguous, to be added.
        bias: [o], to be added as well: both or neither.

    Returns:
        [b t s o].

    Raises:
        ValueError: there is only one of residual and bias.
    """
    if (residual is None) != (bias is None):
        raise ValueError("time_convolution adds a residual and a bias, or neither; got one of them")
    batch, frames, pixels, channels = x.shape
    outputs = weight.shape[0]
    if (
        x.device.type != "cuda"
        or x.dtype != torch.float16
        or pixels < _PIXELS_MIN
        or channels % _BLOCK_K
        or outputs % 64
        or torch.cuda.get_device_capability()[0] < 9
    ):
        return time_convolution_reference(x, weight, residual, bias)
    block_n, stages = (128, 3) if outputs % 128 == 0 else (64, 4)
    out = x.new_empty(batch, frames, pixels, outputs)
    _time_convolution_kernel[(batch * frames * triton.cdiv(pixels, _BLOCK_M) * (outputs // block_n),)](
        TensorDescriptor.from_tensor(x.contiguous().flatten(0, 1), [1, _BLOCK_M, _BLOCK_K]),
        TensorDescriptor.from_tensor(weight.flatten(1), [block_n, _BLOCK_K]),
        TensorDescriptor.from_tensor(out.flatten(0, 1), [1, _BLOCK_M, block_n]),
        TensorDescriptor.from_tensor((out if residual is None else residual).flatten(0, 1), [1, _BLOCK_M, block_n]),
        weight if bias is None else bias,
        frames, pixels, channels, outputs,
        HAS_RESIDUAL=residual is not None,
        BLOCK_M=_BLOCK_M, BLOCK_N=block_n, BLOCK_K=_BLOCK_K, num_warps=4, num_stages=stages,
    )  # fmt: skip
    return out


if triton is not None:

    @triton.jit
    def _time_convolution_kernel(
        x, weight, out, residual, bias, frames, pixels, channels, outputs,
        HAS_RESIDUAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    ):  # fmt: skip
        """One tile of pixels of one frame; x, weight and out are descriptors, and pixels past the end read as zero."""
        tiles_n = outputs // BLOCK_N
        column = tl.program_id(0) % tiles_n * BLOCK_N
        tiles_m = tl.cdiv(pixels, BLOCK_M)
        pixel = tl.program_id(0) // tiles_n % tiles_m * BLOCK_M
        frame = tl.program_id(0) // tiles_n // tiles_m
        # The first frame has none before it, the last none behind it.
        first = tl.where(frame % frames == 0, 1, 0)
        last = tl.where(frame % frames == frames - 1, 1, 2)
        steps = channels // BLOCK_K
        result = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for step in range(first * steps, (last + 1) * steps):
            shift = step // steps
            inner = step % steps * BLOCK_K
            tile = x.load([frame + shift - 1, pixel, inner]).reshape(BLOCK_M, BLOCK_K)
            result = tl.dot(tile, weight.load([column, shift * channels + inner]).T, result)
        if HAS_RESIDUAL:
            result += residual.load([frame, pixel, column]).reshape(BLOCK_M, BLOCK_N).to(tl.float32)
            result += tl.load(bias + column + tl.arange(0, BLOCK_N)).to(tl.float32)[None, :]
        out.store([frame, pixel, column], result.to(tl.float16).reshape(1, BLOCK_M, BLOCK_N))
