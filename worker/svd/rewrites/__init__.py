"""Rewrites of diffusers' SVD modules that leave the output as it is, rounding aside.

Each is one function that changes the modules in place and can be left out, so that a reader (and `bench.svd_speed
--without`) sees what it buys. They compose in the order of `REWRITES`; `residuals` changes only layers that others
have changed before (`RESIDUALS_NEED`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel

from worker.svd.rewrites.attention import collapse_cross_attention, fuse_qkv
from worker.svd.rewrites.decoder import split_decoder_attention
from worker.svd.rewrites.feed_forward import fuse_geglu
from worker.svd.rewrites.layout import keep_channels_last
from worker.svd.rewrites.norms import fuse_norms
from worker.svd.rewrites.residuals import accumulate_residuals
from worker.svd.rewrites.time import (
    SvdModel,
    attend_over_time_in_place,
    cache_frame_embeddings,
    convolve_time_in_place,
    fold_blenders,
)
from worker.svd.rewrites.upsampling import split_upsampling


@dataclass(frozen=True)
class Rewrite:
    """One rewrite, by the models that it applies to."""

    unet: Callable[[UNetSpatioTemporalConditionModel], None] | None = None
    vae: Callable[[AutoencoderKLTemporalDecoder], None] | None = None


def _both(apply: Callable[[SvdModel], None]) -> Rewrite:
    return Rewrite(unet=apply, vae=apply)


#: by name, in the order in which they are applied.
REWRITES: dict[str, Rewrite] = {
    "cross-attention": Rewrite(unet=collapse_cross_attention),
    "qkv": Rewrite(unet=fuse_qkv),
    "frame-embeddings": Rewrite(unet=cache_frame_embeddings),
    "blenders": _both(fold_blenders),
    "time-convolutions": _both(convolve_time_in_place),
    "time-attention": Rewrite(unet=attend_over_time_in_place),
    "channels-last": _both(keep_channels_last),
    "norms": _both(fuse_norms),
    "upsampling": _both(split_upsampling),
    "geglu": Rewrite(unet=fuse_geglu),
    "residuals": Rewrite(unet=accumulate_residuals),
    "decoder-attention": Rewrite(vae=split_decoder_attention),
}


#: without one of these, `residuals` applies to some layers only; without one of the first two, to none.
RESIDUALS_NEED = ("qkv", "cross-attention", "blenders", "time-attention", "channels-last")


def rewrite(
    unet: UNetSpatioTemporalConditionModel,
    vae: AutoencoderKLTemporalDecoder,
    names: Collection[str] = tuple(REWRITES),
) -> None:
    """Apply the rewrites of these names to both models, in place.

    Raises:
        ValueError: there is no rewrite of that name.
    """
    if unknown := set(names) - set(REWRITES):
        raise ValueError(f"no such rewrite: {', '.join(sorted(unknown))}; there are {', '.join(REWRITES)}")
    for name, step in REWRITES.items():
        if name in names and step.unet is not None:
            step.unet(unet)
        if name in names and step.vae is not None:
            step.vae(vae)
