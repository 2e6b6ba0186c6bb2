"""What the denoising of a job depends on: the photo as CLIP and the VAE see it, the numbers, and the noise.

Shapes: b branches of guidance (2, or 1 without it), t frames, c channels, h × w pixels or latents.

Source: Blattmann et al. 2023 (arXiv:2311.15127); diffusers' `StableVideoDiffusionPipeline.__call__`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import PIL.Image
import torch
from diffusers import StableVideoDiffusionPipeline
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from torch import Tensor

from shared.params import GenerationParams
from worker.pipeline import VideoFrames
from worker.svd.encodings import EncodingCache, fingerprint

#: what CLIP sees, pixels.
_CLIP_SIZE = (224, 224)


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


def keep_encoder_in_float32(pipe: StableVideoDiffusionPipeline) -> None:
    """Hold the half of the VAE that overflows in float16 in float32, where diffusers flips all of it for each job."""
    if pipe.vae.dtype == torch.float16 and pipe.vae.config.force_upcast:
        pipe.vae.encoder.float()
        pipe.vae.quant_conv.float()


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


def _with_empty(condition: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(condition), condition])
