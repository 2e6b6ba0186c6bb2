"""What the encoders made of a photo, kept for later jobs with the same photo, such as the cells of an experiment."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable

import PIL.Image
from torch import Tensor

#: enough for 200 videos of 1024 × 576 in float16: 74 KB of latents and 2 KB of embedding each.
MAX_BYTES = 16 * 2**20


class EncodingCache:
    """The encodings that were used last, as many as fit."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        """An empty one.

        Args:
            max_bytes: of the device's memory; 0 keeps nothing.
        """
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        """What is kept takes so much memory."""
        return sum(encoding.nbytes for encoding in self._kept.values())

    def clear(self) -> None:
        """Forget all of it."""
        self._kept.clear()

    def get(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """What was computed for this key, now or before; not to be changed in place.

        Args:
            key: names all that the encoding depends on.
            compute: must give the same each time for one key.
        """
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        # Cloned, since a view would keep alive what it is a view of.
        encoding = compute().clone()
        self._kept[key] = encoding
        while self.num_bytes > self._max_bytes:
            self._kept.popitem(last=False)
        return encoding


def fingerprint(image: PIL.Image.Image) -> bytes:
    """SHA-256 of a picture's size, mode and pixels: the same for whatever file and resizing they came from."""
    digest = hashlib.sha256(f"{image.mode} {image.width} {image.height} ".encode())
    digest.update(image.tobytes())
    return digest.digest()
