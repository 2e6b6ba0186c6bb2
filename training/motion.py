"""Camera motion: which one an image gets, how far it has gone at each frame, and the frames that it makes.

The motion is a function of the image alone, read from its embedding; `motion_bucket_id` and `fps` say how fast it is.
So a clip is all but determined by what the model is told, and a small model can learn it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: at full speed and the last of 14 frames: pan in units of √(width·height), zoom in ln(scale), rotation in radians.
PAN, ZOOM_MEAN, ZOOM_SPAN, ROTATION = 0.10, 0.04, 0.08, 0.06
#: how much faster the lower edge pans than the middle, as if it were nearer; the upper edge is slower by as much.
PARALLAX = 0.25

#: the bucket, rate and frame at which the motion has gone once its full way.
FULL_BUCKET, FULL_FPS, FULL_FRAME = 255, 7, 13


@dataclass(frozen=True)
class CameraMotion:
    """The way at full speed, for a batch of images."""

    #: [b 2], x and y of the camera's way, in units of √(width·height).
    pan: Tensor
    #: [b], ln of the scale; above 0 the camera comes nearer.
    zoom: Tensor
    #: [b], radians.
    rotation: Tensor

    @classmethod
    def of(cls, embeddings: Tensor) -> CameraMotion:
        """Read the motion from whitened image embeddings, [b d] with d ≥ 4."""
        direction = embeddings[:, :2].float()
        return cls(
            pan=PAN * direction / direction.norm(dim=1, keepdim=True).clamp(min=1e-6),
            zoom=ZOOM_MEAN + ZOOM_SPAN * torch.tanh(embeddings[:, 2].float()),
            rotation=ROTATION * torch.tanh(embeddings[:, 3].float()),
        )


def amounts(motion_bucket_id: Tensor, fps: Tensor, num_frames: int) -> Tensor:
    """How much of the full way has been gone, [b t].

    Args:
        motion_bucket_id: [b], 0 to 255.
        fps: [b], frames a second; the faster frames follow each other, the less happens between two.
        num_frames: t.
    """
    frame = torch.arange(num_frames, device=fps.device, dtype=torch.float32)
    speed = motion_bucket_id.float() / FULL_BUCKET * FULL_FPS / fps.float()
    return speed[:, None] * frame[None, :] / FULL_FRAME


def sampling_grid(motion: CameraMotion, amount: Tensor, width: int, height: int, depth: Tensor | None = None) -> Tensor:
    """Where each pixel of each frame comes from in the image.

    Args:
        motion: of b images.
        amount: [b t].
        width: of the frames, px.
        height: of the frames, px.
        depth: [b], how much faster a layer pans than the middle of the image; None: by the row, see `PARALLAX`.

    Returns:
        [b t h w 2], x and y in px from the image's centre.
    """
    device = amount.device
    x = torch.arange(width, device=device, dtype=torch.float32) + 0.5 - width / 2
    y = torch.arange(height, device=device, dtype=torch.float32) + 0.5 - height / 2
    y, x = torch.meshgrid(y, x, indexing="ij")

    def wide(value: Tensor) -> Tensor:
        return value[:, :, None, None]

    scale = torch.exp(-amount * motion.zoom[:, None])
    angle = amount * motion.rotation[:, None]
    cosine, sine = wide(scale * torch.cos(angle)), wide(scale * torch.sin(angle))
    rows = PARALLAX * 2 * y / height if depth is None else depth[:, None, None, None]
    unit = (width * height) ** 0.5 * (1 + rows) * wide(amount)
    along = cosine * x - sine * y + unit * motion.pan[:, 0, None, None, None]
    down = sine * x + cosine * y + unit * motion.pan[:, 1, None, None, None]
    return torch.stack([along, down], dim=-1)


def warp(images: Tensor, grid: Tensor) -> Tensor:
    """The frames that a grid takes from images; beyond the edges the image is mirrored.

    Args:
        images: [b c h w].
        grid: [b t h w 2], see `sampling_grid`.

    Returns:
        [b t c h w].
    """
    batch, frames, height, width, _ = grid.shape
    scale = torch.tensor([2 / width, 2 / height], device=grid.device)
    repeated = images[:, None].expand(-1, frames, -1, -1, -1).flatten(0, 1)
    warped = torch.nn.functional.grid_sample(
        repeated, (grid * scale).flatten(0, 1), mode="bicubic", padding_mode="reflection", align_corners=False
    )
    return warped.unflatten(0, (batch, frames))
