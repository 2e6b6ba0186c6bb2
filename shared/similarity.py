"""How alike two pictures are. Needs numpy, so it is for the worker and the training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]

#: the window's standard deviation and radius, px.
_DEVIATION, _RADIUS = 1.5, 5
#: of the squared range of levels: they keep the quotients of dark and of smooth windows finite.
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def structural_similarity(one: Plane, other: Plane) -> float:
    """Structural similarity (SSIM) of two pictures' luminance.

    Args:
        one: [h w], 0 to 255.
        other: of the same size.

    Returns:
        The mean over all windows, −1 to 1; 1: they are equal.

    Source: Wang, Bovik, Sheikh & Simoncelli 2004 (IEEE TIP 13(4)), equation 13: an 11×11 Gaussian window of deviation
    1.5, K1 = 0.01, K2 = 0.03.
    """
    mean_one, mean_other = _blur(one), _blur(other)
    variance_one = _blur(one**2) - mean_one**2
    variance_other = _blur(other**2) - mean_other**2
    covariance = _blur(one * other) - mean_one * mean_other
    index = ((2 * mean_one * mean_other + _C1) * (2 * covariance + _C2)) / (
        (mean_one**2 + mean_other**2 + _C1) * (variance_one + variance_other + _C2)
    )
    return float(index.mean())


def _blur(values: Plane) -> Plane:
    """The weighted mean of each window; beyond the border the nearest value counts on."""
    offsets = np.arange(-_RADIUS, _RADIUS + 1)
    weights = np.exp(-(offsets**2) / (2 * _DEVIATION**2))
    weights = (weights / weights.sum()).astype(np.float32)
    padded = np.pad(values, _RADIUS, mode="edge")
    height, width = values.shape
    rows = np.zeros((height, padded.shape[1]), np.float32)
    for begin, weight in enumerate(weights):
        rows += weight * padded[begin : begin + height]
    blurred = np.zeros_like(values)
    for begin, weight in enumerate(weights):
        blurred += weight * rows[:, begin : begin + width]
    return blurred
