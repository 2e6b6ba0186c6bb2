"""Stage 3, `unet`: the image-conditioned video model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from torch import Tensor, nn

from training import edm
from training.clips import make_clips
from training.config import ClipSize, StageConfig
from training.embedding import ImageEmbedder
from training.stills import Stills

#: frames that are encoded at a time.
_ENCODE_FRAMES = 256


@dataclass(frozen=True)
class LatentClips:
    """A batch of encoded clips and their conditions, on the device."""

    #: [b t c h w], bfloat16 on a GPU.
    latents: Tensor
    #: [b c h w], of the first frame with noise.
    image_latents: Tensor
    #: [b d].
    embeddings: Tensor
    #: [b 3]: fps - 1, motion bucket, strength of the noise.
    time_ids: Tensor

    def rows(self, chosen: Tensor) -> LatentClips:
        """Some of the clips."""
        return LatentClips(
            self.latents[chosen], self.image_latents[chosen], self.embeddings[chosen], self.time_ids[chosen]
        )


class UnetStage:
    """Trains the UNet to denoise clips' latents, given the first frame, its embedding, bucket, rate and noise."""

    name = "unet"

    def __init__(
        self,
        unet: UNetSpatioTemporalConditionModel,
        vae: AutoencoderKLTemporalDecoder,
        stills: Stills,
        embedder: ImageEmbedder,
        config: StageConfig,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        process: int = 0,
    ) -> None:
        self._vae = vae.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self._stills = stills
        self._embedder = embedder
        self._config = config
        self._seed = seed
        self._device = device
        self._dtype = dtype
        self._process = process
        self.network: nn.Module = unet.to(device)

    def prepare(self, chunk: int) -> Sequence[Callable[[torch.Generator], tuple[Tensor, int]]]:
        """Make the chunk's clips, each for `reuse` steps, in a random order."""
        self._stills.renew_to(chunk)
        generator = torch.Generator(self._device).manual_seed(self._seed + 1009 * chunk + 1_000_003 * self._process)
        steps: list[Callable[[torch.Generator], tuple[Tensor, int]]] = []
        for size in self._config.sizes:
            bank = self._encode(size, generator)
            for _ in range(self._config.reuse):
                shuffled = torch.randperm(len(bank.latents), generator=generator, device=self._device)
                steps += [self._step(bank, rows) for rows in shuffled.split(size.batch)]
        return [steps[int(index)] for index in torch.randperm(len(steps), generator=generator, device=self._device)]

    @torch.no_grad()
    def _encode(self, size: ClipSize, generator: torch.Generator) -> LatentClips:
        parts = []
        for _ in range(size.batches):
            clips = make_clips(
                self._stills, self._embedder, size.batch, size.num_frames, size.width, size.height, generator
            )
            strength = edm.draw_noise_aug(size.batch, generator)
            image = clips.frames[:, 0]
            noise = torch.randn(image.shape, generator=generator, device=self._device)
            latents = self._latents(clips.frames.flatten(0, 1)).unflatten(0, clips.frames.shape[:2])
            time_ids = torch.stack([clips.fps - 1, clips.motion_bucket_id.float(), strength], dim=1)
            image_latents = self._latents(image + strength[:, None, None, None] * noise)
            parts.append(LatentClips(latents, image_latents, clips.embeddings, time_ids))
        return LatentClips(
            torch.cat([part.latents for part in parts]),
            torch.cat([part.image_latents for part in parts]),
            torch.cat([part.embeddings for part in parts]),
            torch.cat([part.time_ids for part in parts]),
        )

    def _latents(self, images: Tensor) -> Tensor:
        chunks = images.split(_ENCODE_FRAMES)
        return torch.cat([self._vae.encode(chunk.to(self._dtype)).latent_dist.mode() for chunk in chunks])

    def _step(self, bank: LatentClips, rows: Tensor) -> Callable[[torch.Generator], tuple[Tensor, int]]:
        def compute(generator: torch.Generator) -> tuple[Tensor, int]:
            return denoising_loss(self.network, bank.rows(rows), generator, self._dtype), len(rows)

        return compute

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """The loss at single noise levels, on fresh clips."""
        generator = torch.Generator(self._device).manual_seed(self._seed - 1)
        size = self._config.sizes[0]
        few = ClipSize(size.width, size.height, size.num_frames, min(8, size.batch), 1)
        clips = self._encode(few, generator)
        measures = {}
        for level in (0.2, 1.0, 5.0, 50.0):
            sigma = torch.full((len(clips.latents),), level, device=self._device)
            value = denoising_loss(network, clips, generator, torch.float32, sigma=sigma, dropout=0.0)
            measures[f"loss_at_{level:g}"] = float(value)
        return measures


def denoising_loss(
    network: nn.Module,
    clips: LatentClips,
    generator: torch.Generator,
    dtype: torch.dtype,
    *,
    sigma: Tensor | None = None,
    dropout: float = edm.DROPOUT,
) -> Tensor:
    """The loss of one batch.

    Args:
        network: the UNet.
        clips: b clips.
        generator: of levels, noise and dropout.
        dtype: that the network computes in.
        sigma: [b]; None: drawn.
        dropout: probability of training without the image.
    """
    clean = clips.latents.float()
    count, device = len(clean), clean.device
    if sigma is None:
        sigma = edm.draw_sigma(count, generator)
    coefficients = edm.Preconditioning.of(sigma)
    noise = torch.randn(clean.shape, generator=generator, device=device)
    noisy = clean + sigma.reshape(-1, 1, 1, 1, 1) * noise
    kept = (torch.rand(count, generator=generator, device=device) >= dropout).float()
    image_latents = clips.image_latents.float() * kept[:, None, None, None]
    stacked = torch.cat(
        [coefficients.into * noisy, image_latents[:, None].expand(-1, clean.shape[1], -1, -1, -1)], dim=2
    )
    prediction = network(
        stacked.to(dtype),
        coefficients.noise,
        encoder_hidden_states=(clips.embeddings * kept[:, None])[:, None].to(dtype),
        added_time_ids=clips.time_ids,
        return_dict=False,
    )[0]
    return edm.loss(prediction, coefficients.target(clean, noisy))
