"""Measures of pictures and motion."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from shared.similarity import structural_similarity

#: Rec. 601, as JPEG has it.
_LUMA = (0.299, 0.587, 0.114)


def psnr(made: Tensor, wanted: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture, [b c h w] with range [-1, 1] to [b], in dB."""
    error = ((made.float() - wanted.float()) ** 2).mean(dim=(1, 2, 3)).clamp(min=1e-10)
    return 10 * torch.log10(4 / error)


def luma(pictures: Tensor) -> Tensor:
    """[b 3 h w] with range [-1, 1] to brightness [b 1 h w], range [0, 1]."""
    weights = torch.tensor(_LUMA, device=pictures.device)[:, None, None]
    return ((pictures.float() + 1) / 2 * weights).sum(dim=1, keepdim=True)


def ssim(made: Tensor, wanted: Tensor) -> Tensor:
    """Structural similarity of brightness, [b 3 h w] with range [-1, 1] to [b], at most 1."""
    planes = [(255 * luma(pictures)[:, 0]).cpu().numpy() for pictures in (made, wanted)]
    return torch.tensor([structural_similarity(one, other) for one, other in zip(*planes, strict=True)])


def flicker(frames: Tensor) -> float:
    """Mean absolute change from frame to frame, [t c h w] with range [-1, 1], in levels of 255."""
    return float(frames.float().diff(dim=0).abs().mean() * 127.5)


def flow(first: Tensor, second: Tensor, levels: int = 4, rounds: int = 6) -> Tensor:
    """Dense optical flow from one picture to another, [1 3 h w] each, in px: [2 h w], x and y.

    Coarse to fine; at each level Gauss-Newton steps on windows. Source: Lucas & Kanade 1981 (IJCAI 2), with the
    pyramid of Bouguet 2001. A little weight on no further motion keeps smooth areas still.
    """
    one, other = [luma(first)], [luma(second)]
    for _ in range(levels - 1):
        if min(one[-1].shape[-2:]) < 32:
            break
        one.append(functional.avg_pool2d(_blur(one[-1], 0.8, 2), 2))
        other.append(functional.avg_pool2d(_blur(other[-1], 0.8, 2), 2))
    moved = torch.zeros(1, 2, *one[-1].shape[-2:], device=first.device)
    for still, target in zip(one[::-1], other[::-1], strict=True):
        if moved.shape[-2:] != still.shape[-2:]:
            moved = 2 * functional.interpolate(moved, size=still.shape[-2:], mode="bilinear", align_corners=False)
        for _ in range(rounds):
            moved = moved + _flow_step(still, target, moved)
    return moved[0]


def _flow_step(still: Tensor, target: Tensor, moved: Tensor) -> Tensor:
    height, width = still.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=still.device) + 0.5, torch.arange(width, device=still.device) + 0.5, indexing="ij"
    )
    grid = torch.stack([(x + moved[0, 0]) * 2 / width - 1, (y + moved[0, 1]) * 2 / height - 1], dim=-1)
    seen = functional.grid_sample(target, grid[None], mode="bilinear", padding_mode="border", align_corners=False)
    padded = functional.pad((seen + still) / 2, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    change = seen - still
    xx, xy, yy = (_blur(product, 3.0, 7) for product in (across**2, across * down, down**2))
    xt, yt = _blur(across * change, 3.0, 7), _blur(down * change, 3.0, 7)
    # In units of squared gradient: well below a visible edge's, well above 8-bit rounding's.
    xx, yy = xx + 1e-5, yy + 1e-5
    determinant = xx * yy - xy**2
    step = torch.cat([-(yy * xt - xy * yt) / determinant, -(xx * yt - xy * xt) / determinant], dim=1)
    return step.clamp(-1, 1)


def mean_flow(first: Tensor, second: Tensor) -> float:
    """Mean length of the flow between two pictures, [3 h w] each, in px."""
    return float(flow(first[None], second[None]).norm(dim=0).mean())


def _blur(values: Tensor, deviation: float, radius: int) -> Tensor:
    offsets = torch.arange(-radius, radius + 1, device=values.device, dtype=values.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * deviation**2)) / (deviation * math.sqrt(2 * math.pi))
    kernel = kernel / kernel.sum()
    padded = functional.pad(values, (radius, radius, radius, radius), mode="replicate")
    rows = functional.conv2d(padded, kernel[None, None, :, None])
    return functional.conv2d(rows, kernel[None, None, None, :])
