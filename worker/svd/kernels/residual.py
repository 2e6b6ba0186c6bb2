"""The end of a residual branch: its last layer's bias and the residual, in one pass over memory."""

from __future__ import annotations

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # torch for the CPU comes without it
    triton = None

_BLOCK_R, _BLOCK_C = 64, 64


def add_residual_reference(x: Tensor, residual: Tensor, bias: Tensor) -> None:
    """What `add_residual` computes, in plain torch: in float32, or in float64 where the input is."""
    wide = torch.promote_types(x.dtype, torch.float32)
    rows = (x.to(wide) + residual.to(wide)).unflatten(0, (len(bias), -1))
    x.copy_((rows + bias.to(wide)[:, None]).flatten(0, 1))


def add_residual(x: Tensor, residual: Tensor, bias: Tensor) -> None:
    """x += residual + bias, rounded once.

    Args:
        x: [rows c], contiguous.
        residual: [rows c], contiguous.
        bias: [b c] where b divides rows: the first rows / b get the first one, and so on.
    """
    if x.device.type != "cuda" or x.dtype == torch.float64:
        add_residual_reference(x, residual, bias)
        return
    rows, channels = x.shape
    _add_residual_kernel[(triton.cdiv(rows, _BLOCK_R), triton.cdiv(channels, _BLOCK_C))](
        x, residual, bias.contiguous(), rows, rows // len(bias), channels, BLOCK_R=_BLOCK_R, BLOCK_C=_BLOCK_C
    )


def add_offset(x: Tensor, offset: Tensor) -> Tensor:
    """x + offset.

    Args:
        x: [n tokens c], contiguous.
        offset: [n c].

    Returns:
        [n tokens c].
    """
    if x.device.type != "cuda" or x.dtype == torch.float64:
        return x + offset[:, None]
    out = torch.empty_like(x)
    n, tokens, channels = x.shape
    _add_offset_kernel[(triton.cdiv(n * tokens, _BLOCK_R), triton.cdiv(channels, _BLOCK_C))](
        x, offset.contiguous(), out, n * tokens, tokens, channels, BLOCK_R=_BLOCK_R, BLOCK_C=_BLOCK_C
    )
    return out


if triton is not None:

    @triton.jit
    def _add_residual_kernel(
        x, residual, bias, rows, rows_per_bias, channels, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
    ):
        r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
        c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
        mask = (r < rows)[:, None] & (c < channels)[None, :]
        at = r[:, None].to(tl.int64) * channels + c[None, :]
        total = tl.load(x + at, mask=mask).to(tl.float32) + tl.load(residual + at, mask=mask).to(tl.float32)
        total += tl.load(bias + (r // rows_per_bias)[:, None] * channels + c[None, :], mask=mask).to(tl.float32)
        tl.store(x + at, total.to(x.dtype.element_ty), mask=mask)

    @triton.jit
    def _add_offset_kernel(
        x, offset, out, rows, rows_per_offset, channels, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
    ):
        r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
        c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
        mask = (r < rows)[:, None] & (c < channels)[None, :]
        at = r[:, None].to(tl.int64) * channels + c[None, :]
        total = tl.load(x + at, mask=mask).to(tl.float32)
        total += tl.load(offset + (r // rows_per_offset)[:, None] * channels + c[None, :], mask=mask).to(tl.float32)
        tl.store(out + at, total.to(out.dtype.element_ty), mask=mask)
