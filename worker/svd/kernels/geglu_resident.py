"""The gated product for narrow features: the weights stay on the multiprocessor, and two tiles take turns there.

With 320 or 640 input features, a tile's product is so short that its activation and its store take as long as half of
it. Here two groups of warps alternate: one multiplies while the other applies the activation; a further warp loads
ahead. Each multiprocessor keeps its columns' weights in shared memory from beginning to end, so that only the input
streams through the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

try:
    import triton
    from triton.experimental import gluon
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.language.nvidia.hopper import (
        fence_async_shared,
        mbarrier,
        tma,
        warpgroup_mma,
        warpgroup_mma_wait,
    )
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
except ImportError:  # torch for the CPU comes without it
    gluon = None

_BLOCK_M, _BLOCK_K = 64, 64
_STAGES = 6
#: columns of value and gate together that fit with k input features: 160 KiB of shared memory either way.
_COLUMNS = {320: 256, 640: 128}


def fits(k: int, n: int) -> bool:
    """Whether the kernel takes k input and n output features here; it uses instructions of Hopper alone."""
    if gluon is None or k not in _COLUMNS or n % (_COLUMNS[k] // 2):
        return False
    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    return bool(device.major == 9 and device.multi_processor_count >= n // (_COLUMNS[k] // 2))


def geglu_resident(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `worker.svd.kernels.geglu.geglu`; in float16, and where it `fits`."""
    m, k = x.shape
    n = weight.shape[0] // 2
    half = _COLUMNS[k] // 2
    out = x.new_empty(m, n)
    columns = n // half
    groups = torch.cuda.get_device_properties(x.device).multi_processor_count // columns
    _kernel[(columns * groups,)](
        _describe(x, [_BLOCK_M, _BLOCK_K]),
        _describe(weight, [half, _BLOCK_K]),
        bias,
        _describe(out, [_BLOCK_M, 64]),
        triton.cdiv(m, _BLOCK_M), n, columns, groups,
        K_STEPS=k // _BLOCK_K, HALF=half, STAGES=_STAGES, num_warps=4, maxnreg=168,
    )  # fmt: skip
    return out


def _describe(tensor: Tensor, block: list[int]) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(tensor, block, gl.NVMMASharedLayout.get_default_for(block, gl.float16))


if gluon is not None:

    @gluon.jit
    def _gelu(x):
        """x Φ(x) as max(x, 0) − |x| Φ(−|x|), with Φ(−u) = exp(−u² / 2) P(1 / (1 + 0.36 u)), right to 1e-5 of itself.

        A quarter of the instructions of erf. Form: Abramowitz & Stegun 1964, 7.1.26; coefficients fitted to relative
        error on [0, 6.5], below which half precision is 0.
        """
        t = _reciprocal(1.0 + 0.36 * gl.abs(x))
        series = 0.24767679 - 0.096583675 * t
        series = 0.044022477 + series * t
        series = 0.1630704 + series * t
        series = (0.14180971 + series * t) * t
        return gl.maximum(x, 0.0) - gl.abs(x) * series * _power_of_2(x * x * -0.7213475204444817)

    @gluon.jit
    def _reciprocal(x):
        return gl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=r,r", [x], gl.float32, True, 1)

    @gluon.jit
    def _power_of_2(x):
        return gl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=r,r", [x], gl.float32, True, 1)

    @gluon.jit
    def _load(args, K_STEPS: gl.constexpr, HALF: gl.constexpr, STAGES: gl.constexpr):
        """Fill the ring of tiles of x, all of this program's rows in turn, behind the weights."""
        x, weight, _, _, x_tiles, weights, _, filled, freed, weights_ready, _, tiles_m, n, columns, groups = args
        column = gl.program_id(0) % columns * HALF
        mbarrier.expect(weights_ready, 2 * K_STEPS * weight.block_type.nbytes)
        for step in gl.static_range(K_STEPS):
            for part in gl.static_range(2):
                tma.async_copy_global_to_shared(
                    weight, [part * n + column, step * 64], weights_ready, weights.index(step).slice(part * HALF, HALF)
                )
        count = 0
        for tile in range(gl.program_id(0) // columns, tiles_m, groups):
            for step in gl.static_range(K_STEPS):
                stage = count % STAGES
                mbarrier.wait(freed.index(stage), (count // STAGES & 1) ^ 1)
                mbarrier.expect(filled.index(stage), x.block_type.nbytes)
                tma.async_copy_global_to_shared(x, [tile * 64, step * 64], filled.index(stage), x_tiles.index(stage))
                count += 1

    @gluon.jit
    def _multiply(turn: gl.constexpr, args, K_STEPS: gl.constexpr, HALF: gl.constexpr, STAGES: gl.constexpr):
        """Every other tile: multiply, apply the activation, store."""
        (_, _, bias, out, x_tiles, weights, out_tiles, filled, freed, weights_ready, turns,
         tiles_m, n, columns, groups) = args  # fmt: skip
        layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 2 * HALF, 16])
        column = gl.program_id(0) % columns * HALF
        index = gl.arange(0, 2 * HALF, gl.SliceLayout(0, layout))
        offset = gl.load(bias + gl.where(index < HALF, index, n - HALF + index) + column)[None, :]
        staged = out_tiles.index(turn)
        mbarrier.wait(weights_ready, 0)
        count = turn * K_STEPS
        phase = turn ^ 1
        for tile in range(gl.program_id(0) // columns + turn * groups, tiles_m, 2 * groups):
            # The other group has seen all its tiles of x arrive: a barrier tells one filling from the next, not from
            # the one after.
            mbarrier.wait(turns.index(turn), phase)
            phase ^= 1
            product = gl.zeros([64, 2 * HALF], gl.float32, layout)
            for step in gl.static_range(K_STEPS):
                stage = (count + step) % STAGES
                mbarrier.wait(filled.index(stage), (count + step) // STAGES & 1)
                product = warpgroup_mma(
                    x_tiles.index(stage), weights.index(step).permute((1, 0)), product, use_acc=step > 0, is_async=True
                )
                if step > 0:
                    # The one before is done: its tile may be filled again.
                    product = warpgroup_mma_wait(1, [product])
                    mbarrier.arrive(freed.index((count + step - 1) % STAGES))
            mbarrier.arrive(turns.index(turn ^ 1))
            product = warpgroup_mma_wait(0, [product])
            mbarrier.arrive(freed.index((count + K_STEPS - 1) % STAGES))
            count += 2 * K_STEPS
            value, gate = (product + offset.to(gl.float32)).reshape([64, 2, HALF]).permute((0, 2, 1)).split()
            gated = (value * _gelu(gate)).to(gl.float16)
            if HALF == 128:
                left, right = gated.reshape([64, 2, 64]).permute((0, 2, 1)).split()
                _store(left, staged, out, tile * 64, column)
                _store(right, staged, out, tile * 64, column + 64)
            else:
                _store(gated, staged, out, tile * 64, column)
        tma.store_wait(0)

    @gluon.jit
    def _store(values, staged, out, row, column):
        tma.store_wait(0)
        staged.store(values)
        fence_async_shared()
        tma.async_copy_shared_to_global(out, [row, column], staged)

    @gluon.jit
    def _kernel(x, weight, bias, out, tiles_m, n, columns, groups,
                K_STEPS: gl.constexpr, HALF: gl.constexpr, STAGES: gl.constexpr, num_warps: gl.constexpr):  # fmt: skip
        """Some columns of the output, and every `groups`-th tile of rows; x, weight and out are descriptors."""
        x_tiles = gl.allocate_shared_memory(gl.float16, [STAGES, 64, 64], x.layout)
        weights = gl.allocate_shared_memory(gl.float16, [K_STEPS, 2 * HALF, 64], weight.layout)
        out_tiles = gl.allocate_shared_memory(gl.float16, [2, 64, 64], out.layout)
        filled = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
        freed = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
        turns = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
        weights_ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
        for stage in gl.static_range(STAGES):
            mbarrier.init(filled.index(stage), count=1)
            mbarrier.init(freed.index(stage), count=1)
        mbarrier.init(weights_ready, count=1)
        mbarrier.init(turns.index(0), count=1)
        mbarrier.init(turns.index(1), count=1)
        args = (x, weight, bias, out, x_tiles, weights, out_tiles, filled, freed, weights_ready, turns,
                tiles_m, n, columns, groups)  # fmt: skip
        gl.warp_specialize(
            [
                (_multiply, (0, args, K_STEPS, HALF, STAGES)),
                (_multiply, (1, args, K_STEPS, HALF, STAGES)),
                (_load, (args, K_STEPS, HALF, STAGES)),
            ],
            [4, 1],
            [240, 24],
        )
