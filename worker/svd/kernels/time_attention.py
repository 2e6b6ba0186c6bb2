"""Self-attention over the frames at each pixel, read from and written to the layout that the other layers use.

Source: Vaswani et al. 2017 (arXiv:1706.03762), equation 1; over frames, Blattmann et al. 2023 (arXiv:2304.08818), 3.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

try:
    import triton
    import triton.language as tl
except ImportError:  # torch for the CPU comes without it
    triton = None

#: longer videos go through torch's own attention.
MAX_FRAMES = 32


def time_attention_reference(qkv: Tensor) -> Tensor:
    """What `time_attention` computes, through torch's own attention."""
    batch, frames, pixels, _, heads, dim = qkv.shape
    # [b t s 3 h d] → three of [(b s) h t d].
    query, key, value = qkv.permute(3, 0, 2, 4, 1, 5).reshape(3, batch * pixels, heads, frames, dim)
    out = F.scaled_dot_product_attention(query, key, value)
    return out.reshape(batch, pixels, heads, frames, dim).permute(0, 3, 1, 2, 4).contiguous()


def time_attention(qkv: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v over the frames t, for each video b, pixel s and head h.

    Args:
        qkv: [b t s 3 h d], contiguous: the output of one fused projection, in the order query, key, value.

    Returns:
        [b t s h d].
    """
    batch, frames, pixels, _, heads, dim = qkv.shape
    if qkv.device.type != "cuda" or frames > MAX_FRAMES or dim not in (16, 32, 64, 128) or qkv.dtype == torch.float64:
        return time_attention_reference(qkv)
    qkv = qkv.contiguous()
    out = qkv.new_empty(batch, frames, pixels, heads, dim)
    _time_attention_kernel[(batch * pixels, heads)](
        qkv, out, frames, pixels, heads, 1 / math.sqrt(dim), DIM=dim, BLOCK_T=MAX_FRAMES,
        IEEE=qkv.dtype == torch.float32, num_warps=1, num_stages=1,
    )  # fmt: skip
    return out


if triton is not None:

    @triton.jit
    def _time_attention_kernel(
        qkv, out, frames, pixels, heads, scale, DIM: tl.constexpr, BLOCK_T: tl.constexpr, IEEE: tl.constexpr
    ):
        """One video, pixel and head."""
        video = tl.program_id(0) // pixels
        pixel = tl.program_id(0) % pixels
        head = tl.program_id(1)
        t = tl.arange(0, BLOCK_T)
        d = tl.arange(0, DIM)
        token = (video * frames + t).to(tl.int64) * pixels + pixel
        width = heads * DIM
        at = qkv + (token * 3 * width + head * DIM)[:, None] + d[None, :]
        live = (t < frames)[:, None]
        query = tl.load(at, mask=live, other=0.0)
        key = tl.load(at + width, mask=live, other=0.0)
        value = tl.load(at + 2 * width, mask=live, other=0.0)
        precision: tl.constexpr = "ieee" if IEEE else "tf32"
        scores = tl.dot(query, tl.trans(key), input_precision=precision) * scale
        scores = tl.where((t < frames)[None, :], scores, float("-inf"))
        weights = tl.exp(scores - tl.max(scores, axis=1)[:, None])
        weights = weights / tl.sum(weights, axis=1)[:, None]
        result = tl.dot(weights.to(value.dtype), value, input_precision=precision)
        to = out + (token * width + head * DIM)[:, None] + d[None, :]
        tl.store(to, result.to(out.dtype.element_ty), mask=live)
