"""LayerNorm of tokens with an offset before it, in one pass over memory.

Source: Ba, Kiros & Hinton 2016 (arXiv:1607.06450), equations 2 to 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # torch for the CPU comes without it
    triton = None

#: features of one program's rows: a few rows of narrow tokens, one of wide ones.
_BLOCK = 8192


def layer_norm_reference(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """What `layer_norm` computes, in plain torch: in float32, or in float64 where the input is."""
    wide = torch.promote_types(x.dtype, torch.float32)
    values = x.to(wide).unflatten(0, (offset.shape[0], -1)) + offset.to(wide)[:, None, None]
    normed = torch.nn.functional.layer_norm(values, x.shape[-1:], weight.to(wide), bias.to(wide), eps)
    return normed.flatten(0, 1).to(x.dtype)


def layer_norm(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalize each token of `x + offset` over its features; scale and shift.

    Separate operators would read each token two or three times.

    Args:
        x: [n tokens c], contiguous.
        offset: [b c] where b divides n: the first n / b of x get the first row, and so on.
        weight: [c].
        bias: [c].
        eps: added to the variance.

    Returns:
        [n tokens c].
    """
    if x.device.type != "cuda" or x.dtype == torch.float64:
        return layer_norm_reference(x, offset, weight, bias, eps)
    x, offset = x.contiguous(), offset.contiguous()
    channels = x.shape[-1]
    rows = x.numel() // channels
    block_c = triton.next_power_of_2(channels)
    block_r = max(_BLOCK // block_c, 1)
    out = torch.empty_like(x)
    _layer_norm_kernel[(triton.cdiv(rows, block_r),)](
        x, offset, weight, bias, out, rows, rows // offset.shape[0], channels, eps,
        BLOCK_R=block_r, BLOCK_C=block_c, num_warps=8,
    )  # fmt: skip
    return out


if triton is not None:

    @triton.jit
    def _layer_norm_kernel(
        x, offset, weight, bias, out, rows, rows_per_offset, channels, eps,
        BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
    ):  # fmt: skip
        r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
        c = tl.arange(0, BLOCK_C)
        inside = c < channels
        mask = (r < rows)[:, None] & inside[None, :]
        at = r[:, None].to(tl.int64) * channels + c[None, :]
        value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
        value += tl.load(offset + (r // rows_per_offset)[:, None] * channels + c[None, :], mask=mask, other=0.0).to(
            tl.float32
        )
        mean = tl.sum(value, axis=1) / channels
        centred = tl.where(mask, value - mean[:, None], 0.0)
        factor = tl.rsqrt(tl.sum(centred * centred, axis=1) / channels + eps)
        scale = tl.load(weight + c, mask=inside, other=0.0).to(tl.float32)
        shift = tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)
        result = centred * factor[:, None] * scale[None, :] + shift[None, :]
        tl.store(out + at, result.to(out.dtype.element_ty), mask=mask)
