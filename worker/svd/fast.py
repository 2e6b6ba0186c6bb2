"""The fast tier: the exact one, but most steps recompute only the outermost layers of the UNet.

Its output differs from that of the other tiers, and manifests say so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from diffusers import StableVideoDiffusionPipeline, UNetSpatioTemporalConditionModel
from torch import Tensor

from worker.svd.exact import ExactEngine
from worker.svd.rewrites import REWRITES
from worker.svd.sampler import Conditioning, Schedule, denoise


class FeatureReuse:
    """A UNet that computes its deep features on every n-th step and uses them again in between.

    Deep features change slowly from step to step; the outermost layers, which see the latents themselves, run on each.
    Source: Ma, Fang & Wang 2023 (arXiv:2312.00858), DeepCache, section 3.2, with uniform intervals.
    """

    def __init__(self, unet: UNetSpatioTemporalConditionModel, *, interval: int, layers: int) -> None:
        """Wrap a UNet.

        Args:
            interval: steps from one full computation to the next, ≥ 1; with 1 nothing is reused.
            layers: of the last up block that run on each step, 1 to as many as it has.

        Raises:
            ValueError: it has not so many layers, or the interval is no number of steps.
        """
        if interval < 1:
            raise ValueError(f"interval must be at least 1, got {interval}")
        if not 1 <= layers <= len(unet.up_blocks[-1].resnets):
            raise ValueError(f"layers must be 1 to {len(unet.up_blocks[-1].resnets)}, got {layers}")
        self.unet = unet
        self._interval = interval
        self._layers = layers
        self._step = 0
        self._features: Tensor | None = None

    def begin(self) -> None:
        """Forget the last job's features."""
        self._step = 0
        self._features = None

    def modules(self) -> list[torch.nn.Module]:
        """Those of the UNet."""
        return list(self.unet.modules())

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        *,
        encoder_hidden_states: Tensor,
        added_time_ids: Tensor,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """As the UNet is called: [b t c h w] → [b t c h w]."""
        unet = self.unet
        batch, frames = sample.shape[:2]
        shared = {
            "temb": embed(unet, timestep, added_time_ids, batch).repeat_interleave(frames, dim=0),
            "image_only_indicator": torch.zeros(batch, frames, dtype=sample.dtype, device=sample.device),
        }
        context = encoder_hidden_states.repeat_interleave(frames, dim=0)
        hidden = unet.conv_in(sample.flatten(0, 1))
        if self._features is None or self._step % self._interval == 0:
            hidden, skips = self._run_deep(hidden, shared, context)
            self._features = hidden
        else:
            skips = self._run_first(hidden, shared, context)
            hidden = self._features
        self._step += 1
        last = unet.up_blocks[-1]
        begin = len(last.resnets) - self._layers
        for resnet, attention in list(zip(last.resnets, last.attentions, strict=True))[begin:]:
            hidden = resnet(torch.cat([hidden, skips.pop()], dim=1), **shared)
            hidden = _attend(attention, hidden, shared, context)
        hidden = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
        return (hidden.unflatten(0, (batch, frames)),)

    def _run_deep(self, hidden: Tensor, shared: dict[str, Tensor], context: Tensor) -> tuple[Tensor, list[Tensor]]:
        """All up to the last layers; returns their input and the skip connections that are left for them."""
        unet = self.unet
        skips = [hidden]
        for block in unet.down_blocks:
            hidden, outputs = block(hidden, **shared, **_context(block, context))
            skips += outputs
        hidden = unet.mid_block(hidden, encoder_hidden_states=context, **shared)
        for block in unet.up_blocks[:-1]:
            count = len(block.resnets)
            hidden = block(hidden, res_hidden_states_tuple=tuple(skips[-count:]), **shared, **_context(block, context))
            del skips[-count:]
        last = unet.up_blocks[-1]
        begin = len(last.resnets) - self._layers
        for resnet, attention in list(zip(last.resnets, last.attentions, strict=True))[:begin]:
            hidden = resnet(torch.cat([hidden, skips.pop()], dim=1), **shared)
            hidden = _attend(attention, hidden, shared, context)
        return hidden, skips

    def _run_first(self, hidden: Tensor, shared: dict[str, Tensor], context: Tensor) -> list[Tensor]:
        """The skip connections of the last layers alone."""
        first = self.unet.down_blocks[0]
        skips = [hidden]
        for resnet, attention in list(zip(first.resnets, first.attentions, strict=True))[: self._layers - 1]:
            hidden = _attend(attention, resnet(hidden, **shared), shared, context)
            skips.append(hidden)
        return skips


def embed(unet: UNetSpatioTemporalConditionModel, timestep: Tensor, time_ids: Tensor, batch: int) -> Tensor:
    """The time embedding, [b c]: of the noise level, and of what the video shall be like."""
    dtype = time_ids.dtype
    embedding = unet.time_embedding(unet.time_proj(timestep.expand(batch)).to(dtype))
    conditions = unet.add_time_proj(time_ids.flatten()).reshape(batch, -1).to(dtype)
    total: Tensor = embedding + unet.add_embedding(conditions)
    return total


def _context(block: torch.nn.Module, context: Tensor) -> dict[str, Tensor]:
    return {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}


def _attend(attention: torch.nn.Module, hidden: Tensor, shared: dict[str, Tensor], context: Tensor) -> Tensor:
    (out,) = attention(
        hidden,
        encoder_hidden_states=context,
        image_only_indicator=shared["image_only_indicator"],
        return_dict=False,
    )
    result: Tensor = out
    return result


@dataclass(frozen=True)
class FastOptions:
    """How much the fast tier may leave out."""

    #: steps from one full computation to the next.
    interval: int = 3
    #: layers of the last block that run on each step.
    layers: int = 2


class FastEngine(ExactEngine):
    """See `SvdEngine`."""

    def __init__(
        self,
        pipe: StableVideoDiffusionPipeline,
        device: torch.device,
        *,
        options: FastOptions | None = None,
        rewrites: Collection[str] = tuple(REWRITES),
        compiled: bool = True,
    ) -> None:
        super().__init__(pipe, device, rewrites=rewrites, compiled=compiled)
        chosen = options or FastOptions()
        self._unet = FeatureReuse(pipe.unet, interval=chosen.interval, layers=chosen.layers)

    def sample(self, conditioning: Conditioning, schedule: Schedule, on_step: Callable[[int], None]) -> Tensor:
        """See `ExactEngine.sample`."""
        self._unet.begin()
        try:
            return denoise(self._unet, conditioning, schedule, on_step)
        finally:
            self._unet.begin()
