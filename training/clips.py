"""Clips: a view of a still, moved by its own camera motion, with what the model is told about it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.embedding import ImageEmbedder
from training.motion import PARALLAX, CameraMotion, amounts, sampling_grid, warp
from training.stills import Stills

#: share of clips with layers that move for themselves.
_LAYERED = 0.25
_LAYERS = 2
#: of an even draw from 0 to 1: below 1 it favours the fast end. Two of three clips are above the middle bucket.
_BUCKET_EXPONENT = 0.6


@dataclass(frozen=True)
class Clips:
    """A batch of clips and their conditions."""

    #: [b t 3 h w], range [-1, 1]; the first frame is the image.
    frames: Tensor
    #: [b d], of the image.
    embeddings: Tensor
    #: [b], 0 to 255.
    motion_bucket_id: Tensor
    #: [b], frames a second.
    fps: Tensor


def make_clips(
    stills: Stills,
    embedder: ImageEmbedder,
    count: int,
    num_frames: int,
    width: int,
    height: int,
    generator: torch.Generator,
) -> Clips:
    """Draw clips; all that is random comes from the generator."""
    images = stills.views(count, width, height, generator)
    # The first clips of a batch are the layered ones; a batch has no order.
    layered = round(count * _LAYERED)
    layers = [_Layer.draw(stills, layered, width, height, generator) for _ in range(_LAYERS)] if layered else []
    flat = images.clone()
    for layer in layers:
        flat[:layered] = torch.lerp(flat[:layered], layer.image, layer.mask)
    # As a caller's image has it: 8 bits a channel.
    flat = torch.round((flat + 1) * 127.5) / 127.5 - 1
    embeddings = embedder(flat)
    motion = CameraMotion.of(embeddings)
    bucket = draw_bucket(count, generator)
    fps = draw_fps(count, generator)
    amount = amounts(bucket, fps, num_frames)
    moved = flat.clone()
    moved[:layered] = images[:layered]
    frames = warp(moved, sampling_grid(motion, amount, width, height))
    if layers:
        part = CameraMotion(motion.pan[:layered], motion.zoom[:layered], motion.rotation[:layered])
        for layer in layers:
            grid = sampling_grid(part, amount[:layered], width, height, layer.depth)
            over = warp(torch.cat([layer.image, layer.mask], dim=1), grid)
            frames[:layered] = torch.lerp(frames[:layered], over[:, :, :3], over[:, :, 3:].clamp(0, 1))
    return Clips(frames.clamp(-1, 1), embeddings, bucket, fps)


def draw_bucket(count: int, generator: torch.Generator) -> Tensor:
    """Motion buckets, the faster the more often, [count]: fast clips are the hardest, and most rates slow them down."""
    even = torch.rand(count, generator=generator, device=generator.device)
    return (256 * even**_BUCKET_EXPONENT).long().clamp(max=255)


def draw_fps(count: int, generator: torch.Generator) -> Tensor:
    """Half of all 7, which is SVD's and our default, the others 5 to 30 with equal weight on each octave, [count]."""
    device = generator.device
    drawn = torch.exp(
        math.log(4.5) + math.log(30.5 / 4.5) * torch.rand(count, generator=generator, device=device)
    ).round()
    usual = torch.rand(count, generator=generator, device=device) < 0.5
    return torch.where(usual, torch.full_like(drawn, 7.0), drawn.clamp(5, 30))


@dataclass(frozen=True)
class _Layer:
    #: [b 3 h w] and [b 1 h w].
    image: Tensor
    mask: Tensor
    #: [b], how much faster it pans than the middle: by the row of its centre, so that it can be told from the image.
    depth: Tensor

    @classmethod
    def draw(cls, stills: Stills, count: int, width: int, height: int, generator: torch.Generator) -> _Layer:
        device = generator.device

        def draw(low: float, high: float) -> Tensor:
            values = low + (high - low) * torch.rand(count, generator=generator, device=device)
            return values[:, None, None]

        x = torch.linspace(-width / height, width / height, width, device=device)[None, None, :]
        y = torch.linspace(-1, 1, height, device=device)[None, :, None]
        middle = draw(-0.8, 0.8)
        left, top = x - draw(-1.0, 1.0) * width / height, y - middle
        bearing = torch.atan2(top, left)
        # A blob: a circle whose radius swings with the bearing.
        radius = draw(0.2, 0.5) * (1 + draw(0, 0.3) * torch.sin(bearing * torch.floor(draw(2, 6)) + draw(0, 6.3)))
        mask = ((radius - torch.hypot(left, top)) * height / 4 + 0.5).clamp(0, 1)
        image = stills.views(count, width, height, generator)
        return cls(image=image, mask=mask[:, None], depth=PARALLAX * middle[:, 0, 0])
