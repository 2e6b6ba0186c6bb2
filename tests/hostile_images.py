"""Image files as somebody would send them who means harm, or whose camera does. Each is made here, byte by byte."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from photos import encode
from PIL import Image, ImageCms

WIDTH, HEIGHT = 96, 64
FORMATS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("PNG", {"interlace": True}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("GIF", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "jpeg"}),
    ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ("BMP", {}),
    ("AVIF", {}),
]


class Hostile(NamedTuple):
    name: str
    data: bytes
    #: what must come of it.
    outcome: Literal["refused", "accepted"]


def picture() -> Image.Image:
    return Image.effect_mandelbrot((WIDTH, HEIGHT), (-2, -1, 1, 1), 40).convert("RGB")


def seeds() -> list[bytes]:
    """A sound file of each kind."""
    return [encode(picture(), name, **options) for name, options in FORMATS]


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, body: bytes, *, bits: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    """
    Args:
        body: of the IDAT chunk, compressed.
        extra: whole chunks before it.
    """
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def sound_png(extra: bytes = b"") -> bytes:
    return png(64, 64, zlib.compress((b"\0" + bytes(64 * 3)) * 64), extra=extra)


def tiff(tags: dict[int, int], pixels: bytes = b"", *, next_directory: int = 0) -> bytes:
    """Little-endian, with one directory of LONG tags after the pixels."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", next_directory)
    return b"II*\x00" + struct.pack("<I", 8 + len(pixels)) + pixels + directory


def patched(data: bytes, position: int, layout: str, *values: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(layout, changed, position, *values)
    return bytes(changed)


def bombs() -> Iterator[Hostile]:
    yield Hostile("PNG of 50000×50000, no pixels", png(50_000, 50_000, b""), "refused")
    yield Hostile("PNG of 2³¹−1 × 2³¹−1", png(2**31 - 1, 2**31 - 1, b""), "refused")
    yield Hostile("PNG of 0×0", png(0, 0, b""), "refused")
    yield Hostile("PNG whose data go on for 200 MB", png(64, 64, zlib.compress(bytes(200 * 10**6), 9)), "accepted")
    yield Hostile("PNG that ends early", png(1900, 2000, zlib.compress(bytes(5701 * 1990), 9)), "accepted")
    rows = (b"\0" + bytes(2000 * 3)) * 2000
    yield Hostile("PNG of 12 MB in 12 kB", png(2000, 2000, zlib.compress(rows, 9)), "accepted")
    text = b"Comment\0\0" + zlib.compress(bytes(100 * 10**6), 9)
    yield Hostile("PNG with a text of 100 MB in 100 kB", sound_png(chunk(b"zTXt", text)), "refused")
    international = b"Comment\0\1\0\0\0" + zlib.compress(bytes(100 * 10**6), 9)
    yield Hostile("PNG with an international text bomb", sound_png(chunk(b"iTXt", international)), "refused")
    profile = b"icc\0\0" + zlib.compress(bytes(100 * 10**6), 9)
    yield Hostile("PNG with a profile bomb", sound_png(chunk(b"iCCP", profile)), "refused")
    many = chunk(b"tEXt", b"a\0" + b"b" * 1000) * 20_000
    yield Hostile("PNG with 20,000 texts", sound_png(many), "accepted")
    yield Hostile("APNG of 2³¹ frames", sound_png(chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))), "accepted")
    bmp = encode(picture(), "BMP")
    yield Hostile("BMP of 2³⁰ px", patched(bmp, 18, "<ii", 2**15, 2**15), "refused")
    yield Hostile("BMP of negative width", patched(bmp, 18, "<ii", -96, 64), "refused")
    yield Hostile("BMP of height −2³¹", patched(bmp, 18, "<ii", 96, -(2**31)), "refused")
    yield Hostile("BMP with 2³¹ colours", patched(encode(picture().quantize(4), "BMP"), 46, "<I", 2**31 - 1), "refused")
    gif = encode(picture(), "GIF")
    yield Hostile("GIF of 65535×65535", patched(gif, 6, "<HH", 65_535, 65_535), "refused")
    frame = gif.index(b",\0\0\0\0")
    yield Hostile("GIF with a frame beyond its canvas", patched(gif, frame + 5, "<HH", 65_535, 65_535), "refused")
    yield Hostile("GIF whose frame lies outside", patched(gif, frame + 1, "<HH", 60_000, 60_000), "refused")
    jpeg = encode(picture(), "JPEG")
    size = jpeg.index(b"\xff\xc0") + 5
    yield Hostile("JPEG of 65535×65535", patched(jpeg, size, ">HH", 65_535, 65_535), "refused")
    yield Hostile("JPEG of 65500×60, one pixel of it there", patched(jpeg, size, ">HH", 60, 65_500), "refused")
    yield Hostile("JPEG of no height", patched(jpeg, size, ">H", 0), "refused")
    webp = encode(picture(), "WEBP")
    extended = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + (16_383).to_bytes(3, "little") * 2
    yield Hostile(
        "WebP with a canvas of 16384×16384",
        b"RIFF" + struct.pack("<I", len(webp) - 8 + 18) + b"WEBP" + extended + webp[12:],
        "refused",
    )
    yield Hostile("WebP whose RIFF claims 4 GB", patched(webp, 4, "<I", 2**32 - 2), "refused")
    base = {256: WIDTH, 257: HEIGHT, 258: 8, 259: 1, 262: 1, 273: 8, 278: HEIGHT, 279: WIDTH * HEIGHT}
    pixels = bytes(WIDTH * HEIGHT)
    yield Hostile("TIFF of 2³¹ × 2³¹", tiff(base | {256: 2**31, 257: 2**31}, pixels), "refused")
    yield Hostile("TIFF with huge tiles", tiff(base | {322: 2**16, 323: 2**16, 324: 8, 325: 8}, pixels), "refused")
    yield Hostile("TIFF with a strip of 4 GB", tiff(base | {279: 2**32 - 1}, pixels), "accepted")
    yield Hostile("TIFF of one row per strip, two thousand million", tiff(base | {278: 2**31 - 1}, pixels), "accepted")
    yield Hostile("TIFF whose directories form a ring", tiff(base, pixels, next_directory=8 + len(pixels)), "accepted")
    yield Hostile("TIFF that deflates to 100 MB", tiff_of(8, zlib.compress(bytes(100 * 10**6), 9)), "accepted")
    inner = encode(Image.new("RGB", (64, 64)), "JPEG")
    huge = patched(inner, inner.index(b"\xff\xc0") + 5, ">HH", 65_000, 65_000)
    yield Hostile("a huge JPEG in a small TIFF", tiff_of(7, huge), "refused")
    avif = encode(picture(), "AVIF")
    yield Hostile("AVIF of 65536×65536", patched(avif, avif.index(b"ispe") + 8, ">II", 65_536, 65_536), "refused")


def tiff_of(compression: int, data: bytes) -> bytes:
    return tiff({256: 64, 257: 64, 258: 8, 259: compression, 262: 1, 273: 8, 277: 1, 278: 64, 279: len(data)}, data)


def impostors() -> Iterator[Hostile]:
    image = picture()
    data = {name: encode(image, name) for name in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")}
    script = b"<script>fetch('//evil')</script><?php system($_GET[0]) ?>"
    archive = b"PK\x05\x06" + bytes(18)
    # A polyglot is accepted as the image that it is; its other half does not outlive the re-encoding.
    for name in data:
        yield Hostile(f"{name} with a script behind it", data[name] + script, "accepted")
        yield Hostile(f"{name} that is a zip file too", data[name] + archive, "accepted")
        yield Hostile(f"HTML with {name} behind it", b"<html>" + script + data[name], "refused")
        yield Hostile(f"{name} with a byte before it", b"\0" + data[name], "refused")
    yield Hostile("GIF that is JavaScript too", b"GIF89a=1;/*" + data["GIF"][6:] + b"*/alert(1)", "refused")
    yield Hostile("JPEG with PHP in its comment", encode(image, "JPEG", comment=script), "accepted")
    yield Hostile("PNG with a script in its text", sound_png(chunk(b"tEXt", b"Title\0" + script)), "accepted")
    yield Hostile("PDF that holds a JPEG", b"%PDF-1.7\n" + data["JPEG"], "refused")
    yield Hostile("JPEG by its first bytes, PNG behind them", b"\xff\xd8\xff" + data["PNG"], "refused")
    yield Hostile("PNG by its first bytes, JPEG behind them", data["PNG"][:8] + data["JPEG"], "refused")
    yield Hostile("SVG", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/x"/></svg>', "refused")
    yield Hostile("PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) (r) file\n", "refused")
    yield Hostile("MVG", b"push graphic-context\nimage over 0,0 0,0 'url(http://evil/)'\n", "refused")
    yield Hostile("a playlist", b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n", "refused")
    yield Hostile("ELF", b"\x7fELF" + bytes(100), "refused")
    for name in ("PPM", "TGA", "ICO", "PDF", "EPS", "PCX", "SGI", "DDS", "JPEG2000", "MSP", "SPIDER", "XBM"):
        source = image.convert({"MSP": "1", "XBM": "1", "SPIDER": "F"}.get(name, "RGB"))
        yield Hostile(f"{name}, which Pillow could read", encode(source, name), "refused")


def oddities() -> Iterator[Hostile]:
    image = picture()
    exif = Image.Exif()
    exif[0x0112] = 6
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2] = "N", (52.0, 31.0, 12.0)
    yield Hostile("JPEG with a place", encode(image, "JPEG", exif=exif), "accepted")
    for number in (0, 9, 65_535):
        exif[0x0112] = number
        yield Hostile(f"orientation {number}", encode(image, "JPEG", exif=exif), "accepted")
    ring = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    yield Hostile("EXIF that points to itself", encode(image, "JPEG", exif=ring), "accepted")
    count = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 65_535, 0x0112, 3, 2**32 - 1, 2**32 - 1)
    yield Hostile("EXIF that claims 65,535 tags", encode(image, "JPEG", exif=count), "accepted")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for name, icc in {
        "cut short": profile[:150],
        "that claims 4 GB": patched(profile, 0, ">I", 2**32 - 1),
        "with 2³² tags": patched(profile, 128, ">I", 2**32 - 1),
        "whose tags overlap": profile[:132] + profile[132:144] * 8 + profile[228:],
        "of Lab": lab,
        "of noise": bytes(range(256)) * 64,
        "of 900 kB": profile + bytes(900_000),
        "that is empty": b"\0",
    }.items():
        yield Hostile(f"a profile {name}", encode(image, "PNG", icc_profile=icc), "accepted")
    large = encode(image, "PNG", icc_profile=profile + bytes(8 * 2**20))
    yield Hostile("a profile of 8 MB", large, "refused")
    yield Hostile("XMP with an entity bomb", encode(image, "JPEG", xmp=entity_bomb()), "accepted")


def entity_bomb() -> bytes:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    return f'<!DOCTYPE x [<!ENTITY e0 "boom">{entities}]><x:xmpmeta>&e9;</x:xmpmeta>'.encode()


def truncations() -> Iterator[Hostile]:
    noise = Image.frombytes("RGB", (WIDTH, HEIGHT), random.Random(1).randbytes(WIDTH * HEIGHT * 3))
    for name, options in FORMATS:
        data = encode(noise, name, **options)
        for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9):
            yield Hostile(f"{name} {options} cut at {share}", data[: int(len(data) * share)], "refused")


def all_hostile() -> list[Hostile]:
    return [*bombs(), *impostors(), *oddities(), *truncations()]
