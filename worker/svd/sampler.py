"""From a photo to the levels of a video, over diffusers' modules: encode, denoise, decode.

The arithmetic is that of diffusers' `StableVideoDiffusionPipeline.__call__`, step by step, with three differences that
lower the error: latents stay in float32 between steps, guidance is applied in float32, and the VAE's encoder is kept in
float32 rather than flipped there and back. Shapes: b branches of guidance (2, or 1 without it), t frames, c channels,
h × w pixels or latents.

Source: Blattmann et al. 2023 (arXiv:2311.15127); Karras et al. 2022 (arXiv:2206.00364), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import PIL.Image
import torch
from diffusers import StableVideoDiffusionPipeline
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from shared.params import GenerationParams
from worker.pipeline import VideoFrames
from worker.svd.encodings import EncodingCache, fingerprint
from worker.svd.rewrites.attention import CollapsedCrossAttention
from worker.svd.rewrites.time import CachedFrameEmbedding

#: what CLIP sees, pixels.
_CLIP_SIZE = (224, 224)

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
class Conditioning:
    """All that the denoising of one job depends on."""

    #: [b 1 c] of the image encoder; zeros for the branch without condition, which comes first.
    embedding: Tensor
    #: [b t c h w] of the noised photo, the same for each frame; zeros likewise.
    image_latents: Tensor
    #: [b 3]: fps − 1, motion bucket, noise augmentation.
    time_ids: Tensor
    #: [1 t c h w] of unit variance.
    noise: Tensor
    #: [1 t 1 1 1], rising from the first frame to the last; None without guidance.
    guidance_scale: Tensor | None
    #: on the CPU, behind the noise to begin with: for samplers that draw more.
    generator: torch.Generator

    def without_guidance(self) -> Conditioning:
        """Its conditioned branch alone."""
        parts = {name: getattr(self, name)[-1:] for name in ("embedding", "image_latents", "time_ids")}
        return replace(self, **parts, guidance_scale=None)


@dataclass(frozen=True)
class Schedule:
    """Noise levels from high to low, and what the network is told of each."""

    #: [steps + 1] in float32 on the CPU, so that reading one waits for nothing; the last one is 0.
    sigmas: Tensor
    #: [steps] on the device: log(σ) / 4 in SVD.
    timesteps: Tensor
    #: standard deviation that the first latents need.
    initial_sigma: float


def keep_encoder_in_float32(pipe: StableVideoDiffusionPipeline) -> None:
    """Hold the half of the VAE that overflows in float16 in float32, where diffusers flips all of it for each job."""
    if pipe.vae.dtype == torch.float16 and pipe.vae.config.force_upcast:
        pipe.vae.encoder.float()
        pipe.vae.quant_conv.float()


def make_schedule(pipe: StableVideoDiffusionPipeline, num_steps: int, device: torch.device) -> Schedule:
    """The scheduler's noise levels, read once so that no step has to ask it (which synchronizes)."""
    pipe.scheduler.set_timesteps(num_steps, device=device)
    return Schedule(
        sigmas=pipe.scheduler.sigmas.cpu(),
        timesteps=pipe.scheduler.timesteps,
        initial_sigma=float(pipe.scheduler.init_noise_sigma),
    )


@torch.no_grad()
def encode(
    pipe: StableVideoDiffusionPipeline,
    image: PIL.Image.Image,
    params: GenerationParams,
    device: torch.device,
    encodings: EncodingCache | None = None,
) -> Conditioning:
    """Embed the photo, encode its noised copy, and draw the noise to begin with.

    Args:
        image: RGB, `params.width` × `params.height`.
        encodings: of this pipeline, used and added to; it changes no bit of the result.
    """
    encodings = encodings or EncodingCache(0)
    photo = fingerprint(image)
    # On the CPU, whatever the device: CUDA's and the CPU's generators give different noise for one seed.
    generator = torch.Generator("cpu").manual_seed(params.seed)
    guided = params.max_guidance_scale > 1
    dtype = pipe.image_encoder.dtype
    channels = pipe.vae.config.latent_channels
    scale = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    shape = (1, params.num_frames, channels, params.height // scale, params.width // scale)

    # Both noises are drawn by one thread, in diffusers' order, while this one prepares the photo and launches CLIP. The
    # first is drawn whether it is needed or not: the noise to begin with comes from the same generator, after it.
    aside = ThreadPoolExecutor(1)
    noise = aside.submit(torch.randn, 1, 3, params.height, params.width, generator=generator)
    # Of the model's precision, as diffusers draws it: another one gives other noise.
    start = aside.submit(torch.randn, shape, generator=generator, dtype=dtype)
    aside.shutdown(wait=False)
    embedding = encodings.get(("embedding", photo), lambda: embed_image(pipe, image, device))

    def encode_noised() -> Tensor:
        pixels = pipe.video_processor.preprocess(image, height=params.height, width=params.width)
        noised = (pixels + params.noise_aug_strength * noise.result()).to(device, pipe.vae.quant_conv.weight.dtype)
        mean, _ = pipe.vae.quant_conv(pipe.vae.encoder(noised)).chunk(2, dim=1)
        return mean.to(dtype)

    latents = encodings.get(("latents", photo, params.seed, params.noise_aug_strength), encode_noised)
    image_latents = latents[:, None].repeat(1, params.num_frames, 1, 1, 1)

    time_ids = torch.tensor([[params.fps - 1, params.motion_bucket_id, params.noise_aug_strength]], dtype=dtype)
    guidance = torch.linspace(params.min_guidance_scale, params.max_guidance_scale, params.num_frames)
    return Conditioning(
        embedding=_with_empty(embedding) if guided else embedding,
        image_latents=_with_empty(image_latents) if guided else image_latents,
        time_ids=time_ids.repeat(2 if guided else 1, 1).to(device),
        noise=start.result().to(device),
        guidance_scale=guidance.to(device)[None, :, None, None, None] if guided else None,
        generator=generator,
    )


def embed_image(pipe: StableVideoDiffusionPipeline, image: PIL.Image.Image, device: torch.device) -> Tensor:
    """CLIP's embedding, [1 1 c]; resized on the device, where diffusers keeps the CPU busy and the GPU waiting."""
    pixels = pipe.video_processor.numpy_to_pt(pipe.video_processor.pil_to_numpy(image)).to(device)
    return _embed(pipe, _prepare_for_clip(pipe, pixels))[:, None]


@torch.no_grad()
def embed_images(pipe: StableVideoDiffusionPipeline, images: VideoFrames, device: torch.device) -> Tensor:
    """CLIP's embedding of each picture, [t h w c] → [t c]."""
    # Resized one by one, embedded together: large are the pictures, not what CLIP sees of them.
    small = [
        _prepare_for_clip(pipe, torch.from_numpy(image).to(device).permute(2, 0, 1)[None] / 255.0) for image in images
    ]
    return _embed(pipe, torch.cat(small))


def _prepare_for_clip(pipe: StableVideoDiffusionPipeline, pixels: Tensor) -> Tensor:
    """[b c h w], 0 to 1 → [b c 224 224], standardized."""
    small = (_resize_with_antialiasing(pixels * 2.0 - 1.0, _CLIP_SIZE) + 1.0) / 2.0
    extractor = pipe.feature_extractor
    mean = small.new_tensor(extractor.image_mean)[:, None, None]
    std = small.new_tensor(extractor.image_std)[:, None, None]
    return (small - mean) / std


def _embed(pipe: StableVideoDiffusionPipeline, prepared: Tensor) -> Tensor:
    embeddings: Tensor = pipe.image_encoder(prepared.to(pipe.image_encoder.dtype)).image_embeds
    return embeddings


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
    """From noise to latents, by Euler's method unless told otherwise; nothing in the loop waits for the device.

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
    """Classifier-free guidance: away from the unconditional branch, by frame.

    Source: Ho & Salimans 2022 (arXiv:2207.12598), equation 6; the scale that rises over the frames, arXiv:2311.15127.
    """
    without, conditioned = output.chunk(2)
    return without + scale * (conditioned - without)


def euler_step(latents: Tensor, prediction: Tensor, sigma: Tensor, next_sigma: Tensor) -> Tensor:
    """One step of Euler's method.

    Source: Karras et al. 2022 (arXiv:2206.00364), algorithm 1 with S_churn = 0.
    """
    sample = latents.to(torch.float32)
    return sample + (sample - _denoised(sample, prediction, sigma)) / sigma * (next_sigma - sigma)


def consistency_step(
    latents: Tensor, prediction: Tensor, sigma: Tensor, next_sigma: Tensor, *, generator: torch.Generator
) -> Tensor:
    """All the way to the image, and back to the next noise level with new noise: for distilled checkpoints.

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


def _with_empty(condition: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(condition), condition])
