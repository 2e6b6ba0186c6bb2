"""Taking in an image from outside: recognised, measured, decoded, brought to one form, and written anew.

Only what `accept_image` returns reaches the object store and the workers: an 8-bit RGB PNG in sRGB, upright, without
transparency and without a byte of the original file.

The plugin classes are called by name rather than through `Image.open`: its check of the pixel count is one global for
the whole process and warns through `warnings`, and neither suits threads. Each class reads the header when it is made
and decodes in `load()`, so the size is checked in between.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO

from PIL import Image, ImageChops, ImageCms
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from api.png import encode_png
from shared.errors import InvalidInputError

FORMATS = "PNG, JPEG, WebP, GIF, TIFF, BMP or AVIF"

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH, _TIFF_BITS_PER_SAMPLE = 322, 323, 258

_GREY_MODES = frozenset({"1", "L", "LA"})
_ACCEPTED_MODES = _GREY_MODES | {"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}

#: what Pillow's parsers and decoders raise over bytes that are not what they claim to be.
_DECODER_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class AcceptedImage:
    """An image in the one form that is stored."""

    data: bytes = field(repr=False)
    #: of `data`, in hexadecimal.
    sha256: str
    width: int
    height: int
    media_type: str
    #: what the caller sent, by Pillow's name.
    source_format: str


def accept_image(
    data: bytes, *, max_pixels: int, max_side_px: int, min_side_px: int = 32, field: str = "image"
) -> AcceptedImage:
    """Check an image and bring it to the stored form.

    The first frame of an animation is taken; transparency is laid on white; CMYK, palettes, grey and 16 bits become
    8-bit RGB; a sound ICC profile is converted to sRGB, an unsound one ignored; the EXIF orientation is applied; all
    metadata is dropped. Threads may call it at once. It needs 8 to 12 bytes of memory per pixel, besides the files.

    Args:
        field: what the caller named it.

    Raises:
        InvalidInputError: it is no image, damaged, too small or too large.
        MemoryError: there is not enough to decode it.
    """
    image = _open(data, field)
    width, height = image.size
    if width * height > max_pixels:
        raise InvalidInputError(
            f"{field} must have at most {max_pixels} pixels, got {width}×{height} = {width * height}", field=field
        )
    tile_width, tile_height = _tile_size(image)
    if tile_width * tile_height > max_pixels:
        raise InvalidInputError(
            f"{field} must have tiles of at most {max_pixels} pixels, got {tile_width}×{tile_height}", field=field
        )
    if max(width, height) > max_side_px:
        raise InvalidInputError(
            f"{field} must have sides of at most {max_side_px} px, got {width}×{height}", field=field
        )
    if min(width, height) < min_side_px:
        raise InvalidInputError(
            f"{field} must have sides of at least {min_side_px} px, got {width}×{height}", field=field
        )
    try:
        image.load()
    except MemoryError:
        raise  # says nothing about the file
    except _DECODER_ERRORS:
        raise InvalidInputError(
            f"{field} must be a complete image, got a {image.format} file of {len(data)} bytes "
            f"that is truncated or damaged",
            field=field,
        ) from None
    rgb = _make_upright(_to_rgb(image, field), image)
    encoded = encode_png(rgb)
    return AcceptedImage(
        data=encoded,
        sha256=hashlib.sha256(encoded).hexdigest(),
        width=rgb.width,
        height=rgb.height,
        media_type="image/png",
        source_format=image.format or "",
    )


def _open(data: bytes, field: str) -> ImageFile:
    """Read the header."""
    plugin = _recognise(data)
    if plugin is not None:
        try:
            return plugin(BytesIO(data))
        except _DECODER_ERRORS:
            # The header claims a format and does not keep to it.
            pass
    # As Python writes bytes, without its b: what is text can be read, the rest is \x….
    begin = repr(bytes(data[:12]))[1:]
    got = f"{len(data)} bytes that begin with {begin}" if data else "an empty file"
    raise InvalidInputError(f"{field} must be a {FORMATS} image, got {got}", field=field)


def _recognise(data: bytes) -> Callable[[BytesIO], ImageFile] | None:
    """The plugin for what the first bytes claim; the list is the whole of what is let near a decoder."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if data.startswith(b"\xff\xd8\xff"):
        # Also MPO, several JPEGs in one file; the first is the picture.
        return JpegImageFile
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WebPImageFile
    if data.startswith((b"GIF87a", b"GIF89a")):
        return GifImageFile
    if data.startswith((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")):
        return TiffImageFile
    if data.startswith(b"BM"):
        return BmpImageFile
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis", b"mif1", b"msf1"):
        return AvifImageFile
    return None


def _tile_size(image: ImageFile) -> tuple[int, int]:
    """The tiles of a TIFF, for which the decoder makes room however small the image is."""
    if not isinstance(image, TiffImageFile):
        return 0, 0
    width, height = (image.tag_v2.get(tag, 0) for tag in (_TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH))
    return (width, height) if isinstance(width, int) and isinstance(height, int) else (0, 0)


def _to_rgb(image: ImageFile, field: str) -> Image.Image:
    """[h w 3], 8 bits, sRGB, on white."""
    icc = image.info.get("icc_profile")
    if image.mode.startswith("I;16"):
        return _to_srgb(_to_8_bits(image), icc)
    if image.mode not in _ACCEPTED_MODES:
        raise InvalidInputError(
            f"{field} must be grey, RGB or CMYK with 8 or 16 bits per channel, got Pillow's mode {image.mode}",
            field=field,
        )
    is_grey = image.mode in _GREY_MODES
    if image.has_transparency_data:
        with_alpha = _convert(image, "RGBA")
        opaque = _to_srgb(with_alpha.convert("L" if is_grey else "RGB"), icc)
        opaque.paste("white", mask=ImageChops.invert(with_alpha.getchannel("A")))
        return opaque
    if image.mode == "CMYK":
        return _to_srgb(image, icc)
    return _to_srgb(_convert(image, "L" if is_grey else "RGB"), icc)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    # Pillow copies all the pixels also where there is nothing to convert.
    return image if image.mode == mode else image.convert(mode)


def _to_8_bits(image: ImageFile) -> Image.Image:
    # Pillow's own conversion clips at 255 instead of scaling.
    bits = image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (16,))[0] if isinstance(image, TiffImageFile) else 16
    scale = 255 / (2**bits - 1)
    return image.convert("I").point(lambda value: value * scale + 0.5).convert("L")


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """To RGB, through the profile if it is sound and made for this kind of image.

    Args:
        image: of mode L, RGB or CMYK.
    """
    if icc:
        try:
            profile = ImageCms.ImageCmsProfile(BytesIO(icc))
            mode = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}.get(profile.profile.xcolor_space.strip())
            # A grey image may carry an RGB profile: its pixels are greys of that space.
            if mode is not None and (mode == image.mode or (mode, image.mode) == ("RGB", "L")):
                converted = ImageCms.profileToProfile(
                    _convert(image, mode), profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
                )
                if converted is not None:
                    return converted
        except MemoryError:
            raise
        except (ImageCms.PyCMSError, *_DECODER_ERRORS):
            pass
    return _convert(image, "RGB")


def _make_upright(rgb: Image.Image, source: ImageFile) -> Image.Image:
    try:
        # Empty for TIFF, whose plugin turns the image by itself.
        orientation = source.getexif().get(_EXIF_ORIENTATION)
    except _DECODER_ERRORS:
        return rgb
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return rgb if turn is None else rgb.transpose(turn)
