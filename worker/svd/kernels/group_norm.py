"""GroupNorm over channels-last frames, with an offset before it and a SiLU behind it, in two passes over memory.

Source: Wu & He 2018 (arXiv:1803.08494), equations 1 to 4.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

try:
    import triton
    import triton.language as tl
except ImportError:  # torch for the CPU comes without it
    triton = None

_BLOCK_C = 64
_BLOCK_R = 64
#: rows that one program reads for the sums: many programs for small frames, few partial sums for large ones.
_ROWS_MIN, _ROWS_MAX = 512, 2048


def group_norm_reference(
    x: Tensor,
    offset: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    num_groups: int,
    eps: float,
    num_frames: int,
    silu: bool,
) -> Tensor:
    """What `group_norm` computes, in plain torch: in float32, or in float64 where the input is."""
    wide = torch.promote_types(x.dtype, torch.float32)
    frames, rows, channels = x.shape
    values = x.to(wide)
    if offset is not None:
        values = values + offset.to(wide)[:, None]
    groups = values.reshape(frames // num_frames, num_frames * rows, num_groups, channels // num_groups)
    variance, mean = torch.var_mean(groups, dim=(1, 3), keepdim=True, correction=0)
    normed = ((groups - mean) * torch.rsqrt(variance + eps)).reshape(frames, rows, channels)
    result = normed * weight.to(wide) + bias.to(wide)
    return (F.silu(result) if silu else result).to(x.dtype)


def group_norm(
    x: Tensor,
    offset: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    num_groups: int,
    eps: float,
    num_frames: int,
    silu: bool,
) -> Tensor:
    """Normalize `x + offset` over each group of channels and `num_frames` frames; scale, shift, and perhaps SiLU.

    Args:
        x: [frames rows c], contiguous; rows are the pixels of a frame.
        offset: [frames c], added to every row first: a convolution's bias and the time embedding cost no pass so.
        weight: [c].
        bias: [c].
        num_groups: divides c.
        eps: added to the variance.
        num_frames: frames that share their mean and variance: 1 in a spatial block, all of a video in a temporal one.
        silu: apply x · sigmoid(x) to the result.

    Returns:
        [frames rows c].
    """
    if x.device.type != "cuda" or x.dtype == torch.float64:
        return group_norm_reference(x, offset, weight, bias, num_groups, eps, num_frames, silu)
    x = x.contiguous()
    offset = None if offset is None else offset.contiguous()
    frames, rows, channels = x.shape
    per_program = min(max(triton.next_power_of_2(rows // 32), _ROWS_MIN), _ROWS_MAX)
    chunks = triton.cdiv(rows, per_program)
    blocks = triton.cdiv(channels, _BLOCK_C)
    sums, squares = torch.empty(2, frames, chunks, channels, device=x.device, dtype=torch.float32)
    scale, shift = torch.empty(2, frames, channels, device=x.device, dtype=torch.float32)
    out = torch.empty_like(x)
    _sum_kernel[(frames * chunks, blocks)](
        x, sums, squares, rows, channels, chunks, per_program, BLOCK_R=_BLOCK_R, BLOCK_C=_BLOCK_C
    )
    group_channels = channels // num_groups
    _affine_kernel[(frames // num_frames, num_groups)](
        x, sums, squares, offset, weight, bias, scale, shift, rows, channels, chunks, per_program, eps,
        HAS_OFFSET=offset is not None, NUM_FRAMES=num_frames, GROUP_C=group_channels,
        BLOCK_C=triton.next_power_of_2(group_channels), BLOCK_J=64,
    )  # fmt: skip
    _apply_kernel[(frames * triton.cdiv(rows, _BLOCK_R), blocks)](
        x, scale, shift, out, rows, channels, triton.cdiv(rows, _BLOCK_R),
        SILU=silu, BLOCK_R=_BLOCK_R, BLOCK_C=_BLOCK_C,
    )  # fmt: skip
    return out


if triton is not None:

    @triton.jit
    def _sum_kernel(
        x, sums, squares, rows, channels, chunks, per_program, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
    ):
        """Sums of x − pivot and of its square over a chunk of rows, per frame and channel."""
        frame = tl.program_id(0) // chunks
        chunk = tl.program_id(0) % chunks
        c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
        base = x + frame.to(tl.int64) * rows * channels
        # The frame's first row: near the mean of each channel, so that squares do not cancel.
        pivot = tl.load(base + c, mask=c < channels, other=0.0).to(tl.float32)
        # Reduced once, behind the loop: a reduction across warps costs more than the loads.
        total = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
        square = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
        # Three tiles ahead: a tile by itself leaves the memory half idle.
        for begin in tl.range(0, per_program, BLOCK_R, num_stages=3):
            r = chunk * per_program + begin + tl.arange(0, BLOCK_R)
            mask = (r < rows)[:, None] & (c < channels)[None, :]
            tile = tl.load(base + r[:, None].to(tl.int64) * channels + c[None, :], mask=mask, other=0.0)
            centred = tl.where(mask, tile.to(tl.float32) - pivot[None, :], 0.0)
            total += centred
            square += centred * centred
        at = (frame * chunks + chunk).to(tl.int64) * channels + c
        tl.store(sums + at, tl.sum(total, axis=0), mask=c < channels)
        tl.store(squares + at, tl.sum(square, axis=0), mask=c < channels)

    @triton.jit
    def _affine_kernel(
        x, sums, squares, offset, weight, bias, scale, shift, rows, channels, chunks, per_program, eps,
        HAS_OFFSET: tl.constexpr, NUM_FRAMES: tl.constexpr, GROUP_C: tl.constexpr,
        BLOCK_C: tl.constexpr, BLOCK_J: tl.constexpr,
    ):  # fmt: skip
        """Mean and variance of one group, as the scale and shift of each of its frames and channels."""
        video = tl.program_id(0)
        index = tl.arange(0, BLOCK_C)
        c = tl.program_id(1) * GROUP_C + index
        inside = index < GROUP_C
        # One value for the whole group; sums about it stay small.
        first = video * NUM_FRAMES
        centre = tl.sum(tl.load(x + first.to(tl.int64) * rows * channels + c, mask=inside, other=0.0).to(tl.float32), 0)
        centre = centre / GROUP_C
        total = tl.zeros([BLOCK_J, BLOCK_C], tl.float32)
        square = tl.zeros([BLOCK_J, BLOCK_C], tl.float32)
        for begin in range(0, NUM_FRAMES * chunks, BLOCK_J):
            j = begin + tl.arange(0, BLOCK_J)
            frame = first + j // chunks
            count = tl.minimum(rows - j % chunks * per_program, per_program).to(tl.float32)[:, None]
            mask = (j < NUM_FRAMES * chunks)[:, None] & inside[None, :]
            at = (first.to(tl.int64) * chunks + j)[:, None] * channels + c[None, :]
            s1 = tl.load(sums + at, mask=mask, other=0.0)
            s2 = tl.load(squares + at, mask=mask, other=0.0)
            # The sums are about the frame's first row; move them to the centre, and by the offset.
            row = x + (frame.to(tl.int64) * rows * channels)[:, None] + c[None, :]
            moved = tl.load(row, mask=mask, other=0.0).to(tl.float32) - centre
            if HAS_OFFSET:
                moved += tl.load(offset + frame[:, None] * channels + c[None, :], mask=mask, other=0.0).to(tl.float32)
            total += tl.where(mask, s1 + count * moved, 0.0)
            square += tl.where(mask, s2 + 2.0 * moved * s1 + count * moved * moved, 0.0)
        size = rows * 1.0 * NUM_FRAMES * GROUP_C
        mean = tl.sum(total) / size
        variance = tl.sum(square) / size - mean * mean
        factor = tl.load(weight + c, mask=inside, other=0.0).to(tl.float32) * tl.rsqrt(variance + eps)
        constant = tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)
        for i in range(NUM_FRAMES):
            at = (first + i) * channels + c
            moved = -(mean + centre)
            if HAS_OFFSET:
                moved = moved + tl.load(offset + at, mask=inside, other=0.0).to(tl.float32)
            tl.store(scale + at, factor, mask=inside)
            tl.store(shift + at, constant + factor * moved, mask=inside)

    @triton.jit
    def _apply_kernel(
        x, scale, shift, out, rows, channels, chunks,
        SILU: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
    ):  # fmt: skip
        frame = tl.program_id(0) // chunks
        r = (tl.program_id(0) % chunks) * BLOCK_R + tl.arange(0, BLOCK_R)
        c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
        inside = c < channels
        factor = tl.load(scale + frame * channels + c, mask=inside, other=0.0)
        constant = tl.load(shift + frame * channels + c, mask=inside, other=0.0)
        mask = (r < rows)[:, None] & inside[None, :]
        at = frame.to(tl.int64) * rows * channels + r[:, None].to(tl.int64) * channels + c[None, :]
        value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) * factor[None, :] + constant[None, :]
        if SILU:
            value = value * tl.sigmoid(value)
        tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)
