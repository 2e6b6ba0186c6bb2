"""From noise to the levels of a video, over diffusers' modules: denoise, decode.

The arithmetic is that of diffusers' `StableVideoDiffusionPipeline.__call__`, step by step, with two differences that
lower the error: latents stay in float32 between steps, and guidance is applied in float32. What comes before is in
`worker.svd.conditioning`. Shapes: b branches of guidance (2, or 1 without it), t frames, c channels,
h × w pixels or latents.

Source: Blattmann et al. 2023 (arXiv:2311.15127); Karras et al. 2022 (arXiv:2206.00364), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from diffusers import StableVideoDiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from worker.svd.conditioning import Conditioning
from worker.svd.rewrites.attention import CollapsedCrossAttention
from worker.svd.rewrites.time import CachedFrameEmbedding

OnStep = Callable[[int], None]
#: from latents, prediction, σ and the next σ to the next latents.
Advance = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Unet(Protocol):
    """A UNet, or what is called like one."""

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        *,
        encoder_hidden_states: Tensor,
        added_time_ids: Tensor,
        return_dict: bool,
    ) -> tuple[Tensor]:
        """[b t c h w] → [b t c h w]."""

    def modules(self) -> Iterable[torch.nn.Module]:
        """All modules in it."""


@dataclass(frozen=True)
class Schedule:
    """Noise levels from high to low, and what the network is told of each."""

    #: [steps + 1] in float32 on the CPU, so that reading one waits for nothing; the last one is 0.
    sigmas: Tensor
    #: [steps] on the device: log(σ) / 4 in SVD.
    timesteps: Tensor
    #: standard deviation that the first latents need.
    initial_sigma: float


def make_schedule(pipe: StableVideoDiffusionPipeline, num_steps: int, device: torch.device) -> Schedule:
    """The scheduler's noise levels, read once so that no step has to ask it (which synchronizes)."""
    pipe.scheduler.set_timesteps(num_steps, device=device)
    return Schedule(
        sigmas=pipe.scheduler.sigmas.cpu(),
        timesteps=pipe.scheduler.timesteps,
        initial_sigma=float(pipe.scheduler.init_noise_sigma),
    )


def set_job_constants(unet: Unet, conditioning: Conditioning) -> None:
    """Compute what the rewritten layers keep for a whole job."""
    num_frames = conditioning.noise.shape[1]
    numbers = torch.arange(num_frames, device=conditioning.noise.device)
    for module in unet.modules():
        if isinstance(module, CollapsedCrossAttention):
            module.set_context(conditioning.embedding)
        for child in module.children():
            if isinstance(child, CachedFrameEmbedding):
                child.set_frames(module.time_proj(numbers).to(conditioning.noise.dtype))


@torch.no_grad()
def denoise(
    unet: Unet,
    conditioning: Conditioning,
    schedule: Schedule,
    on_step: OnStep,
    *,
    guided_steps: int | None = None,
    advance: Advance | None = None,
) -> Tensor:
    """From noise to latents, by Euler's method unless told otherwise; then nothing in the loop waits for the device.

    Args:
        on_step: called behind each step's launch, with the number of steps launched, from 1.
        guided_steps: the first steps, which alone have guidance; None for all.
        advance: the sampler's step.

    Returns:
        [1 t c h w], in float32 at least; scaled as the UNet has them.
    """
    advance = advance or euler_step
    set_job_constants(unet, conditioning)
    dtype = conditioning.noise.dtype
    latents = conditioning.noise.to(torch.promote_types(dtype, torch.float32)) * schedule.initial_sigma
    for step, (sigma, next_sigma) in enumerate(pairwise(schedule.sigmas.unbind())):
        if step == guided_steps and conditioning.guidance_scale is not None:
            conditioning = conditioning.without_guidance()
            set_job_constants(unet, conditioning)
        scaled = (latents / (sigma**2 + 1) ** 0.5).to(dtype)
        prediction = predict(unet, scaled, schedule.timesteps[step], conditioning)
        latents = advance(latents, prediction, sigma, next_sigma)
        on_step(step + 1)
    return latents


def predict(unet: Unet, scaled: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
    """The network's prediction with guidance applied, [1 t c h w], in float32 at least."""
    branches = conditioning.image_latents.shape[0]
    model_input = torch.cat([scaled.expand(branches, -1, -1, -1, -1), conditioning.image_latents], dim=2)
    (output,) = unet(
        model_input,
        timestep,
        encoder_hidden_states=conditioning.embedding,
        added_time_ids=conditioning.time_ids,
        return_dict=False,
    )
    output = output.to(torch.promote_types(output.dtype, torch.float32))
    return output if conditioning.guidance_scale is None else guide(output, conditioning.guidance_scale)


def guide(output: Tensor, scale: Tensor) -> Tensor:
    """Classifier-free guidance: away from the unconditional branch, by frame; [2 t c h w] → [1 t c h w].

    Source: Ho & Salimans 2022 (arXiv:2207.12598), equation 6; the scale that rises over the frames, arXiv:2311.15127.
    """
    without, conditioned = output.chunk(2)
    return without + scale * (conditioned - without)


def euler_step(latents: Tensor, prediction: Tensor, sigma: Tensor, next_sigma: Tensor) -> Tensor:
    """One step of Euler's method, [1 t c h w]; both noise levels are scalars.

    Source: Karras et al. 2022 (arXiv:2206.00364), algorithm 1 with S_churn = 0.
    """
    sample = latents.to(torch.float32)
    return sample + (sample - _denoised(sample, prediction, sigma)) / sigma * (next_sigma - sigma)


def consistency_step(
    latents: Tensor, prediction: Tensor, sigma: Tensor, next_sigma: Tensor, *, generator: torch.Generator
) -> Tensor:
    """All the way to the image, and back to the next noise level with new noise: for distilled checkpoints.

    The noise is drawn on the CPU, so that all devices get the same. Shapes as for `euler_step`.

    Source: Song et al. 2023 (arXiv:2303.01469), algorithm 1, with an ε that is too small to matter.
    """
    denoised = _denoised(latents.to(torch.float32), prediction, sigma)
    noise = randn_tensor(latents.shape, generator=generator, device=latents.device, dtype=torch.float32)
    return denoised + next_sigma * noise


def _denoised(sample: Tensor, prediction: Tensor, sigma: Tensor) -> Tensor:
    """The image that a v-prediction means; in float32 even where the model is float64, as in diffusers' scheduler.

    Source: Karras et al. 2022, c_skip and c_out as in table 1 with σ_data = 1; Salimans & Ho 2022 (arXiv:2202.00512),
    appendix D.
    """
    return prediction * (-sigma / (sigma**2 + 1) ** 0.5) + sample / (sigma**2 + 1)


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> Tensor:
    """[1 t c h w] of the UNet's scale → [t c h w], about −1 to 1; frames decoded together share their norms."""
    scaled = (1 / vae.config.scaling_factor * latents).to(vae.decoder.conv_in.weight.dtype)
    video: Tensor = vae.decode(scaled.flatten(0, 1), num_frames=scaled.shape[1]).sample
    return video


def to_levels(video: Tensor) -> Tensor:
    """[t c h w], −1 to 1 → [t h w c], 0 to 255 as uint8: rounded as diffusers rounds for PIL, but on the device."""
    return ((video.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
