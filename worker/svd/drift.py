"""Drift: how far the frames' embeddings go from the image's. docs/measures.md has the formula."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from worker.pipeline import VideoFrames


def measure_drift(
    embed: Callable[[VideoFrames], Tensor], frames: VideoFrames, image: NDArray[np.uint8]
) -> float | None:
    """The mean of 1 − cosine of each frame's embedding and the image's, 0 to 2; None if an embedding is not finite.

    Args:
        embed: [t h w c] → [t c]: the image encoder that the model is conditioned on.
        frames: [t h w c], RGB.
        image: [h w c], RGB: the prepared input.
    """
    embeddings = embed(np.concatenate([image[None], frames])).float()
    similarity = functional.cosine_similarity(embeddings[1:], embeddings[:1])
    drift = float((1 - similarity).mean().clamp(0, 2))
    return round(drift, 4) if math.isfinite(drift) else None
