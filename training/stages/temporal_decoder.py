"""Stage 2, `temporal-decoder`: the decoder learns to look at neighbouring frames, against flicker."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor, nn

from training.clips import make_clips
from training.config import ClipSize, StageConfig
from training.embedding import ImageEmbedder
from training.losses import flicker_loss, picture_loss
from training.metrics import psnr
from training.stills import Stills

#: highest deviation of the noise on latents, drawn anew for each clip. It differs from frame to frame: that is the
#: flicker that the decoder learns to even out.
_LATENT_NOISE = 0.2


class Decoder(nn.Module):
    """The whole decoder, on clips."""

    def __init__(self, vae: AutoencoderKLTemporalDecoder) -> None:
        super().__init__()
        self.decoder = vae.decoder

    def forward(self, latents: Tensor) -> Tensor:
        """[b t c h w] to [b t 3 H W]."""
        batch, frames = latents.shape[:2]
        indicator = torch.zeros(batch, frames, dtype=latents.dtype, device=latents.device)
        decoded: Tensor = self.decoder(latents.flatten(0, 1), num_frames=frames, image_only_indicator=indicator)
        return decoded.unflatten(0, (batch, frames))


class TemporalDecoderStage:
    """Trains all of the decoder on clips whose latents are noised; the encoder stays as it is."""

    name = "temporal-decoder"

    def __init__(
        self,
        vae: AutoencoderKLTemporalDecoder,
        stills: Stills,
        embedder: ImageEmbedder,
        config: StageConfig,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._vae = vae.to(device)
        self._stills = stills
        self._embedder = embedder
        self._config = config
        self._seed = seed
        self._device = device
        self._dtype = dtype
        vae.requires_grad_(False)
        vae.encoder.to(dtype=dtype)
        vae.quant_conv.to(dtype=dtype)
        self.network: nn.Module = Decoder(vae)
        self.network.requires_grad_(True)
        # With one residual block in the middle diffusers never calls its attention.
        for attention in vae.decoder.mid_block.attentions:
            attention.requires_grad_(False)

    def prepare(self, chunk: int) -> Sequence[Callable[[torch.Generator], tuple[Tensor, int]]]:
        """See `Stage`."""
        self._stills.renew_to(chunk)
        return [self._step(size) for size in self._config.interleave()]

    def _step(self, size: ClipSize) -> Callable[[torch.Generator], tuple[Tensor, int]]:
        def compute(generator: torch.Generator) -> tuple[Tensor, int]:
            frames, latents = self._draw(size, generator)
            noise = torch.randn(latents.shape, generator=generator, device=self._device)
            level = torch.rand(size.batch, 1, 1, 1, 1, generator=generator, device=self._device) * _LATENT_NOISE
            made = self.network((latents + level * noise).to(self._dtype))
            picture = picture_loss(made.flatten(0, 1), frames.flatten(0, 1))
            return picture + flicker_loss(made, frames), size.batch

        return compute

    @torch.no_grad()
    def _draw(self, size: ClipSize, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Frames [b t 3 H W], range [-1, 1], and their latents [b t c h w]."""
        clips = make_clips(
            self._stills, self._embedder, size.batch, size.num_frames, size.width, size.height, generator
        )
        flat = clips.frames.flatten(0, 1)
        latents = self._vae.encode(flat.to(self._dtype)).latent_dist.mode().float()
        return clips.frames, latents.unflatten(0, clips.frames.shape[:2])

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """PSNR and flicker of fresh clips, without noise and with it."""
        generator = torch.Generator(self._device).manual_seed(self._seed)
        frames, latents = self._draw(self._config.sizes[0], generator)
        noise = torch.randn(latents.shape, generator=generator, device=self._device)
        measures = {}
        for name, level in (("", 0.0), ("_noised", 0.15)):
            made = network(latents + level * noise).clamp(-1, 1)
            measures[f"psnr{name}_db"] = float(psnr(made.flatten(0, 1), frames.flatten(0, 1)).mean())
            measures[f"flicker{name}"] = float(made.diff(dim=1).abs().mean() / frames.diff(dim=1).abs().mean())
        return measures
