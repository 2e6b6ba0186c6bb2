"""Procedural stills: many shapes over one another, of many sizes, flat, shaded, striped or rough.

Shapes that hide each other ("dead leaves") have edges and statistics like photographs'. Sources: Lee, Mumford & Huang
2001 (IJCV 41); for learning from them, Baradad et al. 2021 (arXiv:2106.05963).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_KINDS = 4  # ellipse, rectangle, polygon, ring
#: scenes drawn at a time.
_BATCH = 64


def draw_scenes(count: int, width: int, height: int, shapes: int, generator: torch.Generator) -> Tensor:
    """Scenes [count 3 height width], range [-1, 1], float32 on the generator's device."""
    return torch.cat(
        [_draw(min(_BATCH, count - start), width, height, shapes, generator) for start in range(0, count, _BATCH)]
    )


def _draw(count: int, width: int, height: int, shapes: int, generator: torch.Generator) -> Tensor:
    """One batch of scenes, [count 3 height width], range [-1, 1]."""
    device = generator.device
    y = torch.linspace(-1, 1, height, device=device)[:, None] * (height / width)
    x = torch.linspace(-1, 1, width, device=device)[None, :]
    x, y = x.expand(height, width), y.expand(height, width)
    palette = _palette(count, generator)
    rough = rough_texture(count, width, height, generator)
    scene = _fill(x, y, palette, rough, generator)
    # Some scenes are nearly empty, like a sky; their last shapes are skipped.
    filled = torch.rand(count, generator=generator, device=device) ** 0.7
    # Density ∝ 1/r³ between these radii, which makes the scene look alike at each scale.
    smallest, largest = 0.03, 0.7
    for index in range(shapes):
        uniform = torch.rand(count, generator=generator, device=device)
        radius = (smallest**-2 - uniform * (smallest**-2 - largest**-2)) ** -0.5
        if index < 3:
            radius = radius.clamp(min=0.4)
        mask = _shape(x, y, radius, 2 / width, generator)
        mask = mask * (index < filled * shapes).float()[:, None, None]
        colour = _fill(x, y, palette, rough, generator)
        scene = torch.lerp(scene, colour, mask[:, None])
    return scene.clamp(-1, 1)


def _palette(count: int, generator: torch.Generator) -> Tensor:
    """Six colours for each scene, [count 6 3], around one of its own."""
    device = generator.device
    middle = torch.rand(count, 1, 1, generator=generator, device=device) * 1.4 - 0.7
    middle = middle + 0.25 * torch.randn(count, 1, 3, generator=generator, device=device)
    spread = 0.15 + 0.6 * torch.rand(count, 1, 1, generator=generator, device=device)
    grey = torch.randn(count, 6, 1, generator=generator, device=device)
    hue = torch.randn(count, 6, 3, generator=generator, device=device)
    return (middle + spread * (0.8 * grey + 0.4 * hue)).clamp(-0.98, 0.98)


def rough_texture(count: int, width: int, height: int, generator: torch.Generator) -> Tensor:
    """Noise with a spectrum of 1/f^a, a drawn from 0.8 to 2.0, deviation 1, [count height width]."""
    device = generator.device
    white = torch.randn(count, height, width, generator=generator, device=device)
    frequency = torch.hypot(
        torch.fft.fftfreq(height, device=device)[:, None], torch.fft.rfftfreq(width, device=device)[None, :]
    ).clamp(min=1 / max(width, height))
    exponent = 0.8 + 1.2 * torch.rand(count, 1, 1, generator=generator, device=device)
    texture = torch.fft.irfft2(torch.fft.rfft2(white) * frequency**-exponent, s=(height, width))
    return texture / texture.std(dim=(1, 2), keepdim=True).clamp(min=1e-6)


def _shape(x: Tensor, y: Tensor, radius: Tensor, pixel: float, generator: torch.Generator) -> Tensor:
    """Soft masks [count h w], each of its own kind, at random places."""
    count, device = len(radius), generator.device

    def draw(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(count, generator=generator, device=device))[:, None, None]

    kind = torch.randint(_KINDS, (count,), generator=generator, device=device)[:, None, None]
    size = radius[:, None, None]
    angle, aspect, edge = draw(0, 2 * math.pi), draw(0.25, 1.0), draw(1.0, 3.0)
    left, top = x - draw(-1.1, 1.1), y - draw(-0.8, 0.8)
    across = (left * torch.cos(angle) + top * torch.sin(angle)) / size
    along = (top * torch.cos(angle) - left * torch.sin(angle)) / (size * aspect)
    round_ = torch.hypot(across, along)
    corners = torch.floor(draw(3, 7))
    bearing = torch.atan2(along, across)
    sector = 2 * math.pi / corners
    polygon = round_ * torch.cos(torch.remainder(bearing, sector) - sector / 2) / torch.cos(sector / 2)
    ring = (round_ - 0.8).abs() * 5
    distance = torch.where(kind == 0, round_, torch.maximum(across.abs(), along.abs()))
    distance = torch.where(kind == 2, polygon, distance)
    distance = torch.where(kind == 3, ring, distance)
    return ((1 - distance) * size / (pixel * edge) + 0.5).clamp(0, 1)


def _fill(x: Tensor, y: Tensor, palette: Tensor, rough: Tensor, generator: torch.Generator) -> Tensor:
    """Colours to fill a shape with, [count 3 h w]: a shade between two, stripes of two, roughness on top."""
    count, device = len(palette), generator.device

    def draw(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(count, generator=generator, device=device))[:, None, None]

    chosen = torch.randint(palette.shape[1], (count, 2), generator=generator, device=device)
    one, other = (
        palette.gather(1, chosen[:, index, None, None].expand(-1, 1, 3)).squeeze(1)[:, :, None, None]
        for index in range(2)
    )
    angle = draw(0, 2 * math.pi)
    ramp = x * torch.cos(angle) + y * torch.sin(angle)
    shade = (0.5 + draw(-0.8, 0.8) * ramp).clamp(0, 1)
    stripes = 0.5 + 0.5 * torch.tanh(4 * torch.sin(ramp * draw(8, 90)))
    share = torch.where(draw(0, 1) < 0.8, shade, stripes)
    # Most shapes are nearly smooth; a few are as rough as gravel.
    roughness = 0.4 * draw(0, 1) ** 4
    return torch.lerp(one, other, share[:, None]) + (roughness * rough)[:, None]
