"""Pictures of videos for people to look at."""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import torch
from torch import Tensor

from training.pictures import to_image


def save_contact_sheet(path: Path, picture: Tensor, frames: Tensor, intended: Tensor) -> None:
    """Write a PNG: the photo, some frames, and below them the intended ones.

    Args:
        path: of the file.
        picture: [3 h w], range [-1, 1].
        frames: [t 3 h w], as generated.
        intended: [t 3 h w].
    """
    chosen = [round(index * (len(frames) - 1) / 4) for index in range(5)]
    upper = torch.cat([picture, *frames[chosen]], dim=2)
    lower = torch.cat([picture, *intended[chosen]], dim=2)
    sheet: PIL.Image.Image = to_image(torch.cat([upper, lower], dim=1))
    sheet.save(path)
