"""The bank of stills that images and clips are cut from: views of photos, and procedural scenes."""

from __future__ import annotations

import random
from functools import lru_cache
from pathlib import Path

import PIL.Image
import torch
from torch import Tensor

from training.config import DataConfig
from training.photo_files import open_photo
from training.pictures import to_tensor
from training.scenes import draw_scenes


class Stills:
    """A bank of stills, all of one size, of which a part is renewed from time to time.

    What is in it depends on the seed, the photos, of which there is at least one, and how often it was renewed, and on
    nothing else.
    """

    def __init__(self, config: DataConfig, photos: list[Path], seed: int, device: torch.device) -> None:
        self._config = config
        self._photos = photos
        self._seed = seed
        self._device = device
        self._round = 0
        self._images = torch.cat([self._scenes(config.scenes, 0), self._views(config.photo_views, 0)])

    def renew_to(self, number: int) -> None:
        """Make the bank what it is after `number` renewals; going back is not possible."""
        # Each renewal overwrites its own stripe: those that all later ones overwrite need not be made.
        stripes = max(1, round(1 / self._config.renewed))
        for index in range(max(self._round, number - stripes), number):
            self._renew(index)
        self._round = max(self._round, number)

    def views(self, count: int, width: int, height: int, generator: torch.Generator) -> Tensor:
        """Random views [count 3 height width], range [-1, 1]: cropped, turned a little, mirrored, recoloured."""
        device = self._device

        def draw(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(count, generator=generator, device=device)

        chosen = torch.randint(len(self._images), (count,), generator=generator, device=device)
        still_height, still_width = self._images.shape[-2:]
        # `step` is the way between samples, in px of the still. Most views sample the halved still, which is smooth
        # enough for ways twice as long.
        halved = draw(0, 1) < 0.6
        most = torch.where(halved, 2.4, 1.2).clamp(max=0.98 * min(still_width / width, still_height / height))
        step = most * (0.5 + 0.5 * draw(0, 1))
        angle = draw(-0.12, 0.12)
        x = torch.arange(width, device=device, dtype=torch.float32) + 0.5 - width / 2
        y = torch.arange(height, device=device, dtype=torch.float32) + 0.5 - height / 2
        y, x = (axis[None] for axis in torch.meshgrid(y, x, indexing="ij"))
        cosine, sine = ((step * f(angle))[:, None, None] for f in (torch.cos, torch.sin))
        mirrored = torch.where(draw(0, 1) < 0.5, -1.0, 1.0)[:, None, None]
        spare_x = (still_width - step * width).clamp(min=0) / 2
        spare_y = (still_height - step * height).clamp(min=0) / 2
        left = mirrored * (cosine * x - sine * y) + (draw(-1, 1) * spare_x)[:, None, None]
        top = sine * x + cosine * y + (draw(-1, 1) * spare_y)[:, None, None]
        grid = torch.stack([left * (2 / still_width), top * (2 / still_height)], dim=-1)
        views = torch.empty(count, 3, height, width, device=device)
        for wanted, scale in ((False, 1), (True, 2)):
            rows = torch.nonzero(halved == wanted).squeeze(1)
            if len(rows):
                images = self._images[chosen[rows]].float()
                if scale == 2:
                    images = torch.nn.functional.avg_pool2d(images, 2)
                views[rows] = torch.nn.functional.grid_sample(
                    images, grid[rows], mode="bicubic", padding_mode="reflection", align_corners=False
                )
        return self._recolour(views, generator).clamp(-1, 1)

    def _recolour(self, views: Tensor, generator: torch.Generator) -> Tensor:
        """Brightness, contrast, saturation and tint of half the views, so that few photos do for many."""
        count, device = len(views), self._device

        def draw(low: float, high: float, channels: int = 1) -> Tensor:
            values = torch.rand(count, channels, 1, 1, generator=generator, device=device)
            return low + (high - low) * values

        grey = views.mean(dim=1, keepdim=True)
        changed = torch.lerp(grey, views, draw(0.3, 1.4))
        changed = changed * draw(0.7, 1.25) * draw(0.85, 1.15, 3) + draw(-0.2, 0.2) + draw(-0.1, 0.1, 3)
        return torch.where(draw(0, 1) < 0.5, changed, views)

    def _renew(self, index: int) -> None:
        for start, end, make in (
            (0, self._config.scenes, self._scenes),
            (self._config.scenes, len(self._images), self._views),
        ):
            size = end - start
            count = max(1, round(size * self._config.renewed)) if size else 0
            if not count:
                continue
            rows = (torch.arange(count) + index * count) % size + start
            self._images[rows.to(self._device)] = make(count, index + 1)

    def _scenes(self, count: int, number: int) -> Tensor:
        generator = torch.Generator(self._device).manual_seed(self._seed + 7919 * number)
        config = self._config
        scenes = draw_scenes(count, config.still_width, config.still_height, config.shapes, generator)
        return scenes.to(torch.float16)

    def _views(self, count: int, number: int) -> Tensor:
        """Views of photos as large as a still, each with a random part of its photo."""
        config = self._config
        draw = random.Random(self._seed + 104729 * number)  # noqa: S311
        size = (config.still_width, config.still_height)
        stills = torch.empty(count, 3, config.still_height, config.still_width, dtype=torch.float16)
        opened = lru_cache(maxsize=32)(open_photo)
        for row in range(count):
            path = self._photos[draw.randrange(len(self._photos))]
            stills[row] = to_tensor(_random_part(opened(path), size, draw))
        return stills.to(self._device)


def _random_part(photo: PIL.Image.Image, size: tuple[int, int], draw: random.Random) -> PIL.Image.Image:
    """A part of the photo in the shape of `size`, from the largest that fits to one third of it."""
    width, height = size
    largest = min(photo.width / width, photo.height / height)
    scale = largest * draw.uniform(0.35, 1.0) if draw.random() < 0.6 else largest
    part_width, part_height = scale * width, scale * height
    left = draw.uniform(0, photo.width - part_width)
    top = draw.uniform(0, photo.height - part_height)
    box = (left, top, left + part_width, top + part_height)
    return photo.resize(size, PIL.Image.Resampling.LANCZOS, box=box)
