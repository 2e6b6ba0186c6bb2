"""Stage 1, `vae`: the image autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor, nn

from training.config import ClipSize, ModelConfig, StageConfig
from training.losses import latent_loss, picture_loss
from training.metrics import psnr
from training.models import decode_frames
from training.stills import Stills

#: deviation of the noise on latents, drawn anew for each image: what the UNet makes is not exact either, and latents
#: that bear noise are smooth in what they show.
_LATENT_NOISE = 0.12
_LATENT_WEIGHT = 0.02


class Autoencoder(nn.Module):
    """Encode and decode in one call, which is what several devices need; without the temporal layers."""

    def __init__(self, vae: AutoencoderKLTemporalDecoder) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Args: images: [b 3 H W]; noise: [b c h w] for the latents. Returns: images, latents before the noise."""
        latents = self.vae.encode(images).latent_dist.mode()
        noisy = latents if noise is None else latents + noise
        return decode_frames(self.vae.decoder, noisy), latents


class VaeStage:
    """Trains encoder and decoder on single images."""

    name = "vae"

    def __init__(
        self,
        vae: AutoencoderKLTemporalDecoder,
        model: ModelConfig,
        stills: Stills,
        config: StageConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self._model = model
        self._stills = stills
        self._config = config
        self._seed = seed
        self._device = device
        self.network: nn.Module = Autoencoder(vae.to(device))
        vae.requires_grad_(False)
        for part in (vae.encoder, vae.quant_conv):
            part.requires_grad_(True)
        decoder = vae.decoder
        parts = [decoder.conv_in, decoder.conv_norm_out, decoder.conv_out]
        parts += [module.spatial_res_block for module in decoder.modules() if hasattr(module, "spatial_res_block")]
        parts += [upsampler for block in decoder.up_blocks for upsampler in block.upsamplers or ()]
        for part in parts:
            part.requires_grad_(True)

    def prepare(self, chunk: int) -> Sequence[Callable[[torch.Generator], tuple[Tensor, int]]]:
        """See `Stage`."""
        self._stills.renew_to(chunk)
        return [self._step(size) for size in self._config.interleave()]

    def _step(self, size: ClipSize) -> Callable[[torch.Generator], tuple[Tensor, int]]:
        def compute(generator: torch.Generator) -> tuple[Tensor, int]:
            images = self._stills.views(size.batch, size.width, size.height, generator)
            factor = self._model.vae_factor
            shape = (size.batch, self._model.latent_channels, size.height // factor, size.width // factor)
            noise = torch.randn(shape, generator=generator, device=self._device)
            level = torch.rand(size.batch, 1, 1, 1, generator=generator, device=self._device) * _LATENT_NOISE
            dtype = next(self.network.parameters()).dtype
            made, latents = self.network(images.to(dtype), (noise * level).to(dtype))
            return picture_loss(made, images) + _LATENT_WEIGHT * latent_loss(latents), size.batch

        return compute

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """PSNR of decoded images, and the latents' statistics, on fresh views."""
        size = self._config.sizes[0]
        generator = torch.Generator(self._device).manual_seed(self._seed)
        images = self._stills.views(min(16, 4 * size.batch), size.width, size.height, generator)
        made, latents = network(images)
        return {
            "psnr_db": float(psnr(made.clamp(-1, 1), images).mean()),
            "latent_mean": float(latents.mean()),
            "latent_std": float(latents.std()),
        }


@torch.no_grad()
def normalise_latents(vae: AutoencoderKLTemporalDecoder, batches: list[Tensor]) -> None:
    """Fold mean and deviation of each latent channel into the layers around the latents, so that they become 0 and 1.

    What decodes is the same but for a rim of a few pixels, where the decoder's padding now means another level; the
    temporal decoder's training, which comes after this, mends it.

    Args:
        vae: changed in place.
        batches: images [b 3 h w], range [-1, 1].
    """
    latents = torch.cat([vae.encode(images).latent_dist.mode().transpose(0, 1).flatten(1) for images in batches], 1)
    mean, std = latents.mean(dim=1), latents.std(dim=1).clamp(min=1e-4)
    channels = len(mean)
    quant, conv_in = vae.quant_conv, vae.decoder.conv_in
    quant.weight[:channels] /= std[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    conv_in.bias += (conv_in.weight.sum(dim=(2, 3)) * mean).sum(dim=1)
    conv_in.weight *= std[None, :, None, None]
