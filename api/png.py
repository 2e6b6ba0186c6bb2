"""Writing PNG fast.

Pillow tries all five filters on every line, which takes more than half of its time; one filter for all lines and
run lengths instead of matches take less than half as long, and for photos the file is smaller than Pillow's at its
fastest level.
"""

from __future__ import annotations

import struct
import zlib

from PIL import Image, ImageChops

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BITS, _COLOR_TYPE_RGB = 8, 2
#: each line is the difference to the one above.
_FILTER_UP = b"\x02"
#: lines in memory at once, besides the image.
_BAND_PX = 64


def encode_png(image: Image.Image) -> bytes:
    """The image as a PNG file without any metadata.

    Args:
        image: of mode RGB; its `info` is not written.

    Source: W3C, "Portable Network Graphics (PNG) Specification", third edition, sections 5, 9 and 10.
    """
    width, height = image.size
    header = struct.pack(">IIBBBBB", width, height, _BITS, _COLOR_TYPE_RGB, 0, 0, 0)
    compressor = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    parts = []
    for top in range(0, height, _BAND_PX):
        bottom = min(top + _BAND_PX, height)
        # Above the first line there is nothing, and so `crop` fills it with zeros, as the format wants it.
        above = image.crop((0, top - 1, width, bottom - 1))
        differences = ImageChops.subtract_modulo(image.crop((0, top, width, bottom)), above).tobytes()
        lines = (differences[start : start + 3 * width] for start in range(0, len(differences), 3 * width))
        parts.append(compressor.compress(b"".join(_FILTER_UP + line for line in lines)))
    parts.append(compressor.flush())
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"".join(parts)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
