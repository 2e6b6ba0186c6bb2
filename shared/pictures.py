"""Pictures of any kind to RGB. Needs numpy, so it is for the worker and the training."""

from __future__ import annotations

import struct

import numpy as np
import PIL.Image

#: what Pillow's decoders raise on broken files, beside OSError (whose subclass is UnidentifiedImageError).
DECODING_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    OverflowError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    PIL.Image.DecompressionBombError,
)

#: transparent pixels show what a web page would show behind them.
_BACKGROUND = (255, 255, 255)


def flatten(image: PIL.Image.Image) -> PIL.Image.Image:
    """Convert any of Pillow's modes to RGB: 16-bit, float, palette, CMYK, with or without alpha."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255; 65535 / 255 = 257.
        levels = np.asarray(image).astype(np.float64) / 257
        return _from_levels(levels)
    if image.mode == "F":
        levels = np.asarray(image).astype(np.float64)
        return _from_levels(levels * 255 if levels.max(initial=0.0) <= 1.0 else levels)
    if image.has_transparency_data:
        alpha = image.convert("RGBA")
        backdrop = PIL.Image.new("RGBA", alpha.size, (*_BACKGROUND, 255))
        return PIL.Image.alpha_composite(backdrop, alpha).convert("RGB")
    return image.convert("RGB")


def _from_levels(levels: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> PIL.Image.Image:
    grey = np.nan_to_num(levels).round().clip(0, 255).astype(np.uint8)
    return PIL.Image.fromarray(grey).convert("RGB")
