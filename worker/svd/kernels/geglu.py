"""The gated linear unit of the feed-forward layers, with its activation where the matrix product leaves its registers.

Source: Shazeer 2020 (arXiv:2002.05202), GEGLU.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from worker.svd.kernels.geglu_resident import fits, geglu_resident

try:
    import triton
    import triton.language as tl
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:  # torch for the CPU comes without it
    triton = None

_BLOCK_M, _BLOCK_N, _BLOCK_K = 128, 128, 64
#: rows of tiles that run side by side, so that they find their weights in the cache.
_GROUP_M = 8


def geglu_reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What `geglu` computes, in plain torch."""
    value, gate = F.linear(x, weight, bias).chunk(2, dim=-1)
    return value * F.gelu(gate)


def geglu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(x Vᵀ + b) · GELU(x Wᵀ + c), without the 2n columns in between ever reaching memory.

    Args:
        x: [m k], contiguous.
        weight: [2n k], contiguous: V above W.
        bias: [2n]: b before c.

    Returns:
        [m n].
    """
    n = weight.shape[0] // 2
    if x.device.type != "cuda" or x.dtype != torch.float16 or x.shape[1] % _BLOCK_K or n % _BLOCK_N or not _has_tma():
        return geglu_reference(x, weight, bias)
    m, k = x.shape
    if fits(k, n):
        return geglu_resident(x.contiguous(), weight, bias)
    out = x.new_empty(m, n)
    _geglu_kernel[(triton.cdiv(m, _BLOCK_M) * (n // _BLOCK_N),)](
        TensorDescriptor.from_tensor(x.contiguous(), [_BLOCK_M, _BLOCK_K]),
        TensorDescriptor.from_tensor(weight, [_BLOCK_N, _BLOCK_K]),
        bias,
        TensorDescriptor.from_tensor(out, [_BLOCK_M, _BLOCK_N]),
        m, n, k,
        BLOCK_M=_BLOCK_M, BLOCK_N=_BLOCK_N, BLOCK_K=_BLOCK_K, GROUP_M=_GROUP_M, num_warps=8, num_stages=3,
    )  # fmt: skip
    return out


def _has_tma() -> bool:
    """Whether the device copies tiles by itself (Hopper and later); the kernel is written for that."""
    return bool(torch.cuda.get_device_capability()[0] >= 9)


if triton is not None:

    @triton.jit
    def _geglu_kernel(
        x, weight, bias, out, m, n, k,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    ):  # fmt: skip
        """One tile of the output; x, weight and out are descriptors, and rows past the end read as zero."""
        tiles_n = n // BLOCK_N
        per_group = GROUP_M * tiles_n
        first_m = tl.program_id(0) // per_group * GROUP_M
        group_m = min(tl.cdiv(m, BLOCK_M) - first_m, GROUP_M)
        row = (first_m + tl.program_id(0) % per_group % group_m) * BLOCK_M
        column = tl.program_id(0) % per_group // group_m * BLOCK_N
        value = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        gate = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for inner in range(0, k, BLOCK_K):
            tile = x.load([row, inner])
            value = tl.dot(tile, weight.load([column, inner]).T, value)
            gate = tl.dot(tile, weight.load([n + column, inner]).T, gate)
        columns = column + tl.arange(0, BLOCK_N)
        value += tl.load(bias + columns)[None, :].to(tl.float32)
        gate += tl.load(bias + n + columns)[None, :].to(tl.float32)
        gated = value * 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
        out.store([row, column], gated.to(tl.float16))
