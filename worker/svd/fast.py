"""The fast tier: the exact one, with levers that change the output; manifests name them.

`reuse`: most steps recompute only the outermost layers of the UNet. `guidance`: only the first half of the steps runs
the unconditional branch, too. `consistency`: a sampler for checkpoints distilled to a few steps without guidance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import StableVideoDiffusionPipeline, UNetSpatioTemporalConditionModel
from torch import Tensor

from worker.svd.conditioning import Conditioning
from worker.svd.exact import ExactEngine
from worker.svd.rewrites import REWRITES
from worker.svd.sampler import Schedule, consistency_step, denoise


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
            "temb": embed_time(unet, timestep, added_time_ids, batch).repeat_interleave(frames, dim=0),
            "image_only_indicator": torch.zeros(batch, frames, dtype=sample.dtype, device=sample.device),
        }
        context = encoder_hidden_states.repeat_interleave(frames, dim=0)
        hidden = unet.conv_in(sample.flatten(0, 1))
        if self._features is None or self._step % self._interval == 0:
            hidden, skips = self._run_deep(hidden, shared, context)
            self._features = hidden
        else:
            skips = self._run_first(hidden, shared, context)
            # Without the unconditional branch, which came first, where guidance has ended since.
            hidden = self._features[-batch * frames :]
        self._step += 1
        for resnet, attention in _pairs(unet.up_blocks[-1])[-self._layers :]:
            hidden = resnet(torch.cat([hidden, skips.pop()], dim=1), **shared)
            hidden = _attend(attention, hidden, shared, context)
        hidden = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
        return (hidden.unflatten(0, (batch, frames)),)

    def _run_deep(self, hidden: Tensor, shared: dict[str, Tensor], context: Tensor) -> tuple[Tensor, list[Tensor]]:
        """All up to the last layers, from [bt c h w]; returns their input and the skip connections left for them."""
        unet = self.unet
        skips = [hidden]
        for block in unet.down_blocks:
            hidden, outputs = block(hidden, **shared, **_context(block, context))
            skips += outputs
        hidden = unet.mid_block(hidden, encoder_hidden_states=context, **shared)
        for block in unet.up_blocks[:-1]:
            count = len(block.resnets)
            taken, skips = tuple(skips[-count:]), skips[:-count]
            # Halving an odd size rounds up, so doubling does not always lead back to it.
            size = skips[-1].shape[2:]
            hidden = block(
                hidden, res_hidden_states_tuple=taken, upsample_size=size, **shared, **_context(block, context)
            )
        for resnet, attention in _pairs(unet.up_blocks[-1])[: -self._layers]:
            hidden = resnet(torch.cat([hidden, skips.pop()], dim=1), **shared)
            hidden = _attend(attention, hidden, shared, context)
        return hidden, skips

    def _run_first(self, hidden: Tensor, shared: dict[str, Tensor], context: Tensor) -> list[Tensor]:
        """The skip connections of the last layers alone, each [bt c h w]."""
        skips = [hidden]
        for resnet, attention in _pairs(self.unet.down_blocks[0])[: self._layers - 1]:
            hidden = _attend(attention, resnet(hidden, **shared), shared, context)
            skips.append(hidden)
        return skips


def embed_time(unet: UNetSpatioTemporalConditionModel, timestep: Tensor, time_ids: Tensor, batch: int) -> Tensor:
    """The time embedding, [b c]: of the noise level, [], and of what the video shall be like, [b 3]."""
    dtype = time_ids.dtype
    embedding = unet.time_embedding(unet.time_proj(timestep.expand(batch)).to(dtype))
    conditions = unet.add_time_proj(time_ids.flatten()).reshape(batch, -1).to(dtype)
    total: Tensor = embedding + unet.add_embedding(conditions)
    return total


def _pairs(block: torch.nn.Module) -> list[tuple[torch.nn.Module, torch.nn.Module]]:
    """The layers of a block, each a residual block and the transformer behind it."""
    return list(zip(block.resnets, block.attentions, strict=True))


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
    """How much the fast tier may leave out; what each lever sets stands in `LEVERS`."""

    #: steps from one full computation to the next; with 1 nothing is reused.
    interval: int = 1
    #: layers of the last block that run on each step.
    layers: int = 2
    #: share of the steps that have guidance, from the first on.
    guided_share: float = 1.0
    #: multistep consistency sampling rather than Euler's method.
    consistency: bool = False


#: what each lever changes.
LEVERS: dict[str, dict[str, Any]] = {
    # Source: arXiv:2312.00858.
    "reuse": {"interval": 3},
    # Late steps hardly depend on it. Source: Castillo et al. 2023 (arXiv:2312.12487), section 4.
    "guidance": {"guided_share": 0.5},
    "consistency": {"consistency": True},
}


def choose_options(levers: Iterable[str]) -> FastOptions:
    """The options of some levers together."""
    return FastOptions(**{name: value for lever in levers for name, value in LEVERS[lever].items()})


class FastEngine(ExactEngine):
    """See `SvdEngine`."""

    def __init__(
        self,
        pipe: StableVideoDiffusionPipeline,
        device: torch.device,
        *,
        options: FastOptions | None = None,
        rewrites: Collection[str] = tuple(REWRITES),
    ) -> None:
        super().__init__(pipe, device, rewrites=rewrites)
        self._options = options or choose_options(["reuse"])
        self._unet = FeatureReuse(pipe.unet, interval=self._options.interval, layers=self._options.layers)
        # The first and a later step of each interval, with guidance and without.
        self.warm_up_steps = max(2 * self._options.interval, 2)

    def sample(self, conditioning: Conditioning, schedule: Schedule, on_step: Callable[[int], None]) -> Tensor:
        """See `ExactEngine.sample`."""
        self._unet.begin()
        try:
            return denoise(
                self._unet,
                conditioning,
                schedule,
                on_step,
                guided_steps=math.ceil(self._options.guided_share * len(schedule.timesteps)),
                advance=partial(consistency_step, generator=conditioning.generator)
                if self._options.consistency
                else None,
            )
        finally:
            self._unet.begin()
