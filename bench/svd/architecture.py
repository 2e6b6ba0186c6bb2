"""SVD's architecture with random weights: made where it runs, since what is measured does not depend on their values.

The weights are scaled so that activations stay near one, and every blend is uneven, so that a rewrite that drops or
doubles a term shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from training.models import SCHEDULER_CONFIG


@dataclass(frozen=True)
class Architecture:
    """Configurations of the three networks; the defaults are those of SVD-XT.

    Source: stabilityai/stable-video-diffusion-img2vid-xt, the config.json of each.
    """

    unet: dict[str, Any] = field(default_factory=dict)
    vae: dict[str, Any] = field(default_factory=dict)
    image_encoder: dict[str, Any] = field(default_factory=dict)


_FULL_VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 768,
    "scaling_factor": 0.18215,
    "force_upcast": True,
}
_FULL_IMAGE_ENCODER: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 224,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}

FULL = Architecture(
    unet={"sample_size": 96, "num_frames": 25},
    vae=_FULL_VAE,
    image_encoder=_FULL_IMAGE_ENCODER,
)

#: every kind of layer of the full one, in seconds on a CPU.
TOY = Architecture(
    unet={
        "sample_size": 8,
        "num_frames": 4,
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal",) * 2 + ("DownBlockSpatioTemporal",),
        "up_block_types": ("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 2,
        "block_out_channels": (64, 64, 96),
        "num_attention_heads": (4, 2, 3),
        "cross_attention_dim": 32,
        "addition_time_embed_dim": 16,
        "projection_class_embeddings_input_dim": 48,
        "layers_per_block": 1,
    },
    vae={**_FULL_VAE, "block_out_channels": (32, 32, 32, 64), "layers_per_block": 1, "sample_size": 64},
    image_encoder={
        **_FULL_IMAGE_ENCODER,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 56,
        "projection_dim": 32,
    },
)


def make_pipeline(
    architecture: Architecture, *, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> StableVideoDiffusionPipeline:
    """The pipeline on its device; the same seed gives the same weights on one device and dtype."""
    with torch.device(device):
        unet = UNetSpatioTemporalConditionModel(**architecture.unet)
        vae = AutoencoderKLTemporalDecoder(**architecture.vae)
        image_encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**architecture.image_encoder))
    generator = torch.Generator(device).manual_seed(seed)
    for model in (unet, vae, image_encoder):
        model.to(device)  # some parameters are made on the CPU whatever the context says
        _draw_weights(model, generator)
        model.to(dtype).eval().requires_grad_(False)
    pipe = StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=image_encoder,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**SCHEDULER_CONFIG),
        feature_extractor=CLIPImageProcessor(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


@torch.no_grad()
def _draw_weights(model: torch.nn.Module, generator: torch.Generator) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith("mix_factor"):
            parameter.uniform_(-1.5, 1.5, generator=generator)
        elif parameter.ndim < 2:
            # Norms about one, biases about zero.
            middle = 1.0 if name.endswith("weight") else 0.0
            parameter.normal_(middle, 0.1, generator=generator)
        else:
            # The last of a residual branch is drawn smaller: forty branches add up.
            last = name.endswith(("conv2.weight", "to_out.0.weight", "net.2.weight", "proj_out.weight"))
            fan_in = parameter[0].numel()
            parameter.normal_(0.0, (0.3 if last else 1.0) / math.sqrt(fan_in), generator=generator)
