"""Photos as tensors and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor

from training.photo_files import open_photo


def load_picture(path: Path, width: int, height: int) -> Tensor:
    """The middle of a photo at a size in px, [3 h w], range [-1, 1]; cropped and resized as the service does."""
    fitted = PIL.ImageOps.fit(open_photo(path), (width, height), PIL.Image.Resampling.LANCZOS)
    return to_tensor(fitted)


def to_tensor(image: PIL.Image.Image) -> Tensor:
    """RGB image to [3 h w], range [-1, 1]."""
    levels = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)
    return levels.float() / 127.5 - 1


def to_image(picture: Tensor) -> PIL.Image.Image:
    """[3 h w], range [-1, 1], to an RGB image."""
    levels = ((picture.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return PIL.Image.fromarray(levels.permute(1, 2, 0).numpy())
