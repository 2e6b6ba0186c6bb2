"""Losses in pixel space."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def picture_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """Absolute and squared differences of levels, and absolute ones of gradients, which keep edges sharp.

    Args:
        made: [b c h w], range about [-1, 1].
        wanted: the same.
    """
    made, wanted = made.float(), wanted.float()
    across = functional.l1_loss(made.diff(dim=-1), wanted.diff(dim=-1))
    down = functional.l1_loss(made.diff(dim=-2), wanted.diff(dim=-2))
    return functional.l1_loss(made, wanted) + 0.5 * functional.mse_loss(made, wanted) + 0.5 * (across + down)


def flicker_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """Absolute difference of how frames change, [b t c h w]."""
    return functional.l1_loss(made.float().diff(dim=1), wanted.float().diff(dim=1))


def latent_loss(latents: Tensor) -> Tensor:
    """Penalty that keeps each latent channel at mean 0 and variance 1, [b c h w].

    In the place of a KL term: EDM's preconditioning asks for just these two, and nothing of it costs detail.
    """
    latents = latents.float()
    mean = latents.mean(dim=(0, 2, 3))
    variance = latents.var(dim=(0, 2, 3))
    return (mean**2).mean() + (variance.clamp(min=1e-6).log() ** 2).mean()
