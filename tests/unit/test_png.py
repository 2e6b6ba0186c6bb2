"""What is written is a PNG that any decoder reads back pixel by pixel."""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from api.png import encode_png


@pytest.mark.parametrize("height", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("kind", ["noise", "flat", "gradient"])
def test_every_pixel_comes_back(kind: str, height: int) -> None:
    shape = (height, 37, 3)
    pixels = {
        "noise": np.random.default_rng(height).integers(0, 256, shape, dtype=np.uint8),
        "flat": np.full(shape, 255, dtype=np.uint8),
        "gradient": (np.arange(height * 37 * 3).reshape(shape) % 256).astype(np.uint8),
    }[kind]
    image = Image.open(BytesIO(encode_png(Image.fromarray(pixels))), formats=("PNG",))
    assert (image.mode, image.size) == ("RGB", (37, height))
    np.testing.assert_array_equal(np.asarray(image), pixels)


def test_nothing_but_the_pixels_is_written_and_the_checksums_are_right() -> None:
    image = Image.new("RGB", (40, 100), (1, 2, 3))
    image.info = {"icc_profile": b"x", "comment": "secret"}
    data = encode_png(image)
    kinds = []
    with BytesIO(data) as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"
        chunks = PngImagePlugin.ChunkStream(file)
        while not kinds or kinds[-1] != b"IEND":
            kind, _, length = chunks.read()
            chunks.crc(kind, file.read(length))  # raises if the checksum is wrong
            kinds.append(kind)
        assert file.read() == b""
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]
    assert struct.unpack(">IIBBBBB", data[16:29]) == (40, 100, 8, 2, 0, 0, 0)
