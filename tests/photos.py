"""Small pictures, as files and as requests carry them."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from typing import Any

from PIL import Image


def encode(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    """The picture as a file."""
    file = BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def plain(colour: str = "red", size: tuple[int, int] = (64, 48)) -> bytes:
    """A PNG of one colour."""
    return encode(Image.new("RGB", size, colour))


def data_uri(image: bytes) -> str:
    """For `image_url`, of a PNG or a JPEG."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{b64encode(image).decode()}"
