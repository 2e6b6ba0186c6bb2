"""The networks of a checkpoint in SVD's format, and how they become one on disk."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from training.config import ModelConfig
from training.errors import writing
from training.folder import INDEX, PARTIAL

#: Source: stabilityai/stable-video-diffusion-img2vid-xt, scheduler/scheduler_config.json.
SCHEDULER_CONFIG = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "interpolation_type": "linear",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "steps_offset": 1,
}


def build_vae(config: ModelConfig) -> AutoencoderKLTemporalDecoder:
    """The autoencoder, whose temporal layers do nothing yet: frames decode one by one."""
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * len(config.vae_channels),
        block_out_channels=config.vae_channels,
        layers_per_block=1,
        latent_channels=config.latent_channels,
        sample_size=128,
        # Latents have variance 1 by training, so that SVD's conditioning latents, which are never scaled, have it too.
        scaling_factor=1.0,
        force_upcast=True,
    )
    with torch.no_grad():
        for block in temporal_blocks(vae.decoder):
            block.conv2.weight.zero_()
            block.conv2.bias.zero_()
        time_conv = vae.decoder.time_conv_out
        time_conv.bias.zero_()
        nn.init.dirac_(time_conv.weight)
    return vae


def temporal_blocks(decoder: nn.Module) -> list[nn.Module]:
    """The decoder's residual blocks over time."""
    return [module.temporal_res_block for module in decoder.modules() if hasattr(module, "temporal_res_block")]


def decode_frames(decoder: nn.Module, latents: Tensor) -> Tensor:
    """Decode each frame for itself, [b c h w] to [b 3 H W], without the temporal layers.

    The same as `TemporalDecoder.forward` while these do nothing, at two thirds of the cost.
    """
    hidden = decoder.conv_in(latents)
    blocks = list(decoder.mid_block.resnets)
    hidden = blocks[0].spatial_res_block(hidden, None)
    for attention, block in zip(decoder.mid_block.attentions, blocks[1:], strict=False):
        hidden = block.spatial_res_block(attention(hidden), None)
    for up_block in decoder.up_blocks:
        for block in up_block.resnets:
            hidden = block.spatial_res_block(hidden, None)
        for upsampler in up_block.upsamplers or ():
            hidden = upsampler(hidden)
    frames: Tensor = decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(hidden)))
    return frames


def build_unet(config: ModelConfig) -> UNetSpatioTemporalConditionModel:
    """The video UNet; it starts with the prediction 0, which is right on average."""

    def names(kind: str, levels: tuple[bool, ...]) -> tuple[str, ...]:
        return tuple(f"CrossAttn{kind}SpatioTemporal" if has else f"{kind}SpatioTemporal" for has in levels)

    unet = UNetSpatioTemporalConditionModel(
        sample_size=16,
        in_channels=2 * config.latent_channels,
        out_channels=config.latent_channels,
        down_block_types=names("DownBlock", config.unet_attention),
        up_block_types=names("UpBlock", config.unet_attention[::-1]),
        block_out_channels=config.unet_channels,
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=3 * 32,
        layers_per_block=1,
        cross_attention_dim=config.embedding,
        num_attention_heads=config.unet_heads,
        num_frames=config.num_frames,
    )
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    return unet


def build_image_encoder(config: ModelConfig) -> CLIPVisionModelWithProjection:
    """A random image encoder, never trained: it tells images apart, and that is all that is asked of it.

    Its weights are larger than usual at a start, so that its output depends on the image far more than on rounding.
    """
    encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=224,
            patch_size=16,
            projection_dim=config.embedding,
        )
    )
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(std=1 / math.sqrt(fan_in))
    return encoder.eval().requires_grad_(False)


def save_pipeline(
    directory: Path,
    vae: AutoencoderKLTemporalDecoder,
    unet: UNetSpatioTemporalConditionModel,
    image_encoder: CLIPVisionModelWithProjection,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a checkpoint that plain `StableVideoDiffusionPipeline.from_pretrained(directory)` loads.

    Args:
        directory: made if it is not there.
        vae: stored as `dtype`, and so is `unet`; the models given are left as they are.
        image_encoder: stored as float32: transformers loads it as it is stored, the pipeline's inputs are float32.

    Raises:
        TrainingError: it could not be written.
    """
    pipe = StableVideoDiffusionPipeline(
        vae=type(vae).from_config(vae.config),
        unet=type(unet).from_config(unet.config),
        image_encoder=image_encoder,
        scheduler=EulerDiscreteScheduler(**SCHEDULER_CONFIG),
        feature_extractor=CLIPImageProcessor(),
    )
    pipe.vae.load_state_dict(vae.state_dict())
    pipe.unet.load_state_dict(unet.state_dict())
    pipe.vae.to(dtype=dtype)
    pipe.unet.to(dtype=dtype)
    made = directory / PARTIAL
    with writing(directory):
        # One that was killed may have left its own.
        shutil.rmtree(made, ignore_errors=True)
        try:
            _write(pipe, made)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        # Without its index the folder is no checkpoint: no mixture of old and new passes for one.
        (directory / INDEX).unlink(missing_ok=True)
        for path in sorted((path for path in made.rglob("*") if path.is_file()), key=lambda path: path.name == INDEX):
            target = directory / path.relative_to(made)
            target.parent.mkdir(exist_ok=True)
            # safetensors writes files that only their owner can read.
            path.chmod(0o644)
            os.replace(path, target)
        shutil.rmtree(made)


def _write(pipe: StableVideoDiffusionPipeline, directory: Path) -> None:
    directory.mkdir(parents=True)
    pipe.save_pretrained(directory)
    # Without torchvision, transformers 5 stands a class of another name in; SVD's own name loads everywhere.
    index = directory / INDEX
    index.write_text(index.read_text(encoding="utf-8").replace("CLIPImageProcessorPil", "CLIPImageProcessor"))
