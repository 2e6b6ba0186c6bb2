"""The four output phases of an upsampling, put beside each other in one pass over memory."""

from __future__ import annotations

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # torch for the CPU comes without it
    triton = None

_BLOCK_R, _BLOCK_C = 64, 64


def interleave_reference(phases: Tensor, bias: Tensor) -> Tensor:
    """What `interleave` computes, in plain torch."""
    n, rows, columns = phases.shape[:3]
    height, width = rows - 1, columns - 1
    parts = phases.unflatten(3, (2, 2, -1))
    out = phases.new_empty(n, height, 2, width, 2, parts.shape[5])
    for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
        torch.add(parts[:, y : y + height, x : x + width, y, x], bias, out=out[:, :, y, :, x])
    return out.flatten(3, 4).flatten(1, 2)


def interleave(phases: Tensor, bias: Tensor) -> Tensor:
    """out[2 i + y, 2 j + x] = phases[i + y, j + x, phase (y, x)] + bias.

    Args:
        phases: [n h+1 w+1 4c], contiguous; four phases (y, x) of c channels each.
        bias: [c].

    Returns:
        [n 2h 2w c].
    """
    if phases.device.type != "cuda" or phases.dtype == torch.float64:
        return interleave_reference(phases, bias)
    n, height, width = phases.shape[0], 2 * (phases.shape[1] - 1), 2 * (phases.shape[2] - 1)
    channels = len(bias)
    out = phases.new_empty(n, height, width, channels)
    rows = n * height * width
    _interleave_kernel[(triton.cdiv(rows, _BLOCK_R), triton.cdiv(channels, _BLOCK_C))](
        phases, bias, out, rows, height, width, channels, BLOCK_R=_BLOCK_R, BLOCK_C=_BLOCK_C
    )
    return out


if triton is not None:

    @triton.jit
    def _interleave_kernel(
        phases, bias, out, rows, height, width, channels, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
    ):
        r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
        c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
        mask = (r < rows)[:, None] & (c < channels)[None, :]
        column, line = r % width, r // width
        row, n = line % height, line // height
        y, x = row % 2, column % 2
        source = (n * (height // 2 + 1) + row // 2 + y) * (width // 2 + 1) + column // 2 + x
        at = source[:, None].to(tl.int64) * (4 * channels) + ((2 * y + x) * channels)[:, None] + c[None, :]
        value = tl.load(phases + at, mask=mask).to(tl.float32)
        value += tl.load(bias + c, mask=c < channels).to(tl.float32)[None, :]
        tl.store(out + r[:, None].to(tl.int64) * channels + c[None, :], value.to(out.dtype.element_ty), mask=mask)
