"""The image embedding as the pipeline computes it, and the whitening that makes it say something."""

from __future__ import annotations

import torch
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection


class ImageEmbedder:
    """Embeds images as `StableVideoDiffusionPipeline._encode_image` does, on the images' device, always in float32."""

    def __init__(self, encoder: CLIPVisionModelWithProjection, device: torch.device) -> None:
        self.encoder = encoder.to(device=device, dtype=torch.float32)
        processor = CLIPImageProcessor()
        self._mean = torch.tensor(processor.image_mean, device=device)[:, None, None]
        self._std = torch.tensor(processor.image_std, device=device)[:, None, None]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """[b 3 h w], range [-1, 1], to [b d]."""
        embeddings: Tensor = self.encoder(self._prepare(images)).image_embeds
        return embeddings

    def _prepare(self, images: Tensor) -> Tensor:
        resized = _resize_with_antialiasing(images.float(), (224, 224))
        return ((resized + 1) / 2 - self._mean) / self._std

    @torch.no_grad()
    def whiten(self, batches: list[Tensor]) -> None:
        """Set the encoder's last layers so that its embeddings have mean 0 and covariance 1 over these images.

        The projection takes the directions of most variance, in falling order. It has no bias; the norm before it has,
        and takes the mean away.

        Args:
            batches: each [b 3 h w], range [-1, 1].
        """
        norm, projection = self.encoder.vision_model.post_layernorm, self.encoder.visual_projection
        norm.weight.fill_(1.0)
        norm.bias.zero_()
        pooled = torch.cat(
            [self.encoder.vision_model(self._prepare(images)).pooler_output.double() for images in batches]
        )
        mean = pooled.mean(dim=0)
        values, vectors = torch.linalg.eigh(torch.cov((pooled - mean).T))
        order = torch.argsort(values, descending=True)[: projection.out_features]
        norm.bias.copy_(-mean)
        projection.weight.copy_((vectors[:, order] / values[order].clamp(min=1e-8).sqrt()).T)
