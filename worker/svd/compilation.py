"""Compiling the blocks of a rewritten pipeline, region by region, for the shapes that its model is made for.

Blocks of one kind share their code, so a region compiles once for each shape rather than once for each place. What was
compiled stays on disk: a restarted worker reads it back.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import StableVideoDiffusionPipeline
from diffusers.models.resnet import SpatioTemporalResBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel

from worker.svd.rewrites.upsampling import SubpixelUpsample

log = logging.getLogger(__name__)

#: one entry for each shape of a block, both branches of guidance, and the decoder's.
_SHAPES_MAX = 128
_REGIONS = (SpatioTemporalResBlock, TransformerSpatioTemporalModel, SubpixelUpsample)


def use_compile_cache(directory: Path) -> None:
    """Keep compiled code in a directory; to be called before anything is compiled.

    Where it cannot be written, as in a container without a volume, code is kept for this process only, and the next one
    compiles again.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        log.warning("compiled code is not kept: %s: %s", directory, error.strerror)
        directory = Path(tempfile.mkdtemp(prefix="animatic-compiled-"))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(directory))
    # For our own kernels; Triton's default is in the home directory, which a container need not have.
    os.environ.setdefault("TRITON_CACHE_DIR", str(directory / "triton"))


def compile_regions(pipe: StableVideoDiffusionPipeline, **options: Any) -> None:
    """Mark the blocks of UNet and decoder for compilation at their first call."""
    # Choices by rule rather than by stopwatch, so that another machine of the kind, or an empty cache, gives the same
    # frames.
    torch._inductor.config.deterministic = True
    torch._dynamo.config.recompile_limit = _SHAPES_MAX
    torch._dynamo.config.accumulated_recompile_limit = 16 * _SHAPES_MAX
    for model in (pipe.unet, pipe.vae.decoder):
        for module in model.modules():
            if isinstance(module, _REGIONS):
                module.compile(fullgraph=True, dynamic=False, **options)


@contextmanager
def only_what_is_compiled() -> Iterator[None]:
    """Run compiled code where it fits, and the rewritten modules as they are for any other shape.

    Compiling for each new size would cost a job minutes.
    """
    with torch.compiler.set_stance("eager_on_recompile"):
        yield
