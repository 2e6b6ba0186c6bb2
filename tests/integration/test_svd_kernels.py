"""The Triton kernels, compiled for GPUs that need not be there, by the Triton that comes with torch for CUDA."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="torch for the CPU comes without Triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.experimental.gluon import language as gl  # noqa: E402
from triton.experimental.gluon._runtime import GluonASTSource  # noqa: E402

from worker.svd.kernels import geglu_resident  # noqa: E402

#: that one block may take, by compute capability. Source: CUDA C++ Programming Guide, technical specifications.
SHARED_BYTES = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}

#: module and kernel, types of its arguments, constants and options, as the module launches it for SVD's layers.
KERNELS: list[tuple[str, str, dict[str, Any], dict[str, int]]] = [
    ("group_norm._sum_kernel", "*fp16 *fp32 *fp32 i32 i32 i32 i32", {"BLOCK_R": 64, "BLOCK_C": 64}, {}),
    (
        "group_norm._affine_kernel",
        "*fp16 *fp32 *fp32 *fp16 *fp16 *fp16 *fp32 *fp32 i32 i32 i32 i32 fp32",
        {"HAS_OFFSET": True, "NUM_FRAMES": 25, "GROUP_C": 10, "BLOCK_C": 16, "BLOCK_J": 64},
        {},
    ),
    (
        "group_norm._apply_kernel",
        "*fp16 *fp32 *fp32 *fp16 i32 i32 i32",
        {"SILU": True, "BLOCK_R": 64, "BLOCK_C": 64},
        {},
    ),
    ("interleave._interleave_kernel", "*fp16 *fp16 *fp16 i32 i32 i32 i32", {"BLOCK_R": 64, "BLOCK_C": 64}, {}),
    (
        "layer_norm._layer_norm_kernel",
        "*fp16 *fp16 *fp16 *fp16 *fp16 i32 i32 i32 fp32",
        {"BLOCK_R": 4, "BLOCK_C": 2048},
        {"num_warps": 8},
    ),
    ("residual._add_residual_kernel", "*fp16 *fp16 *fp16 i32 i32 i32", {"BLOCK_R": 64, "BLOCK_C": 64}, {}),
    ("residual._add_offset_kernel", "*fp16 *fp16 *fp16 i32 i32 i32", {"BLOCK_R": 64, "BLOCK_C": 64}, {}),
    (
        "time_attention._time_attention_kernel",
        "*fp16 *fp16 i32 i32 i32 fp32",
        {"DIM": 64, "BLOCK_T": 32, "IEEE": False},
        {"num_warps": 1, "num_stages": 1},
    ),
]
#: those that let the device copy tiles, from Hopper on.
HOPPER_KERNELS: list[tuple[str, str, dict[str, Any], dict[str, int]]] = [
    (
        "geglu._geglu_kernel",
        "tensordesc<fp16[128,64]> tensordesc<fp16[128,64]> *fp16 tensordesc<fp16[128,128]> i32 i32 i32",
        {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "GROUP_M": 8},
        {"num_warps": 8, "num_stages": 3},
    ),
    *(
        (
            "time_convolution._time_convolution_kernel",
            f"tensordesc<fp16[1,128,64]> tensordesc<fp16[{block_n},64]> tensordesc<fp16[1,128,{block_n}]> "
            f"tensordesc<fp16[1,128,{block_n}]> *fp16 i32 i32 i32 i32",
            {"HAS_RESIDUAL": True, "BLOCK_M": 128, "BLOCK_N": block_n, "BLOCK_K": 64},
            {"num_warps": 4, "num_stages": stages},
        )
        for block_n, stages in ((128, 3), (64, 4))
    ),
]


@pytest.fixture(autouse=True)
def _compile_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "types", "constants", "options", "capability"),
    [(*kernel, capability) for kernel in KERNELS for capability in SHARED_BYTES]
    + [(*kernel, capability) for kernel in HOPPER_KERNELS for capability in (90, 100, 120)],
)
def test_a_kernel_compiles_and_fits(
    name: str, types: str, constants: dict[str, Any], options: dict[str, int], capability: int
) -> None:
    module, _, attribute = name.partition(".")
    kernel = getattr(importlib.import_module(f"worker.svd.kernels.{module}"), attribute)
    given = iter(types.split())
    signature = {each: "constexpr" if each in constants else next(given) for each in kernel.arg_names}
    assert next(given, None) is None
    source = ASTSource(kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= SHARED_BYTES[capability]


@pytest.mark.parametrize(("k", "half"), [(320, 128), (640, 64)])
def test_the_gated_product_for_narrow_features_compiles_and_fits(k: int, half: int) -> None:
    def describe(rows: int, columns: int) -> str:
        layout = gl.NVMMASharedLayout.get_default_for([rows, columns], gl.float16)
        return f"tensordesc<fp16[{rows}, {columns}],{layout!r}>"

    types = (describe(64, 64), describe(half, 64), "*fp16", describe(64, 64), "i32", "i32", "i32", "i32")
    constants = {"K_STEPS": k // 64, "HALF": half, "STAGES": geglu_resident._STAGES, "num_warps": 4}
    names = [name for name in geglu_resident._kernel.arg_names if name not in constants]
    signature = {**dict(zip(names, types, strict=True)), **dict.fromkeys(constants, "constexpr")}
    source = GluonASTSource(geglu_resident._kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "maxnreg": 168})
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= SHARED_BYTES[90]
