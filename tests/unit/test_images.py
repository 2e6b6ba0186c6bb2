"""Bad images are refused by name and number; unusual but sound ones come out as upright 8-bit sRGB."""

from __future__ import annotations

import hashlib
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import encode
from PIL import Image, ImageCms, PngImagePlugin

from api.images import AcceptedImage, accept_image
from shared.errors import InvalidInputError

WIDTH, HEIGHT = 96, 64
RED, GREEN, BLUE, YELLOW, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 255, 255)


def make_quarters() -> Image.Image:
    """Red and green above blue and yellow."""
    image = Image.new("RGB", (WIDTH, HEIGHT), RED)
    image.paste(GREEN, (WIDTH // 2, 0, WIDTH, HEIGHT // 2))
    image.paste(BLUE, (0, HEIGHT // 2, WIDTH // 2, HEIGHT))
    image.paste(YELLOW, (WIDTH // 2, HEIGHT // 2, WIDTH, HEIGHT))
    return image


QUARTERS = make_quarters()


def accept(data: bytes, *, max_pixels: int = 1_000_000, max_side_px: int = 5_000) -> AcceptedImage:
    return accept_image(data, max_pixels=max_pixels, max_side_px=max_side_px)


def decode(accepted: AcceptedImage) -> Image.Image:
    image = Image.open(BytesIO(accepted.data), formats=("PNG",))
    image.load()
    assert image.mode == "RGB"
    assert image.size == (accepted.width, accepted.height)
    return image


def corners(image: Image.Image) -> list[Any]:
    """Upper left, upper right, lower left, lower right; well within each quarter."""
    left, right, top, bottom = image.width // 4, image.width * 3 // 4, image.height // 4, image.height * 3 // 4
    return [image.getpixel(point) for point in ((left, top), (right, top), (left, bottom), (right, bottom))]


def assert_corners(data: bytes, expected: list[tuple[int, int, int]], tolerance: int = 0) -> AcceptedImage:
    accepted = accept(data)
    np.testing.assert_allclose(corners(decode(accepted)), expected, atol=tolerance)
    return accepted


def chunk_names(png: bytes) -> Iterator[bytes]:
    position = 8
    while position < len(png):
        (length,) = struct.unpack_from(">I", png, position)
        yield png[position + 4 : position + 8]
        position += 12 + length


@pytest.mark.parametrize(
    ("image_format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("PNG", {"interlace": True}, 0),
        ("JPEG", {"quality": 95}, 3),
        ("JPEG", {"quality": 95, "progressive": True}, 3),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 6),
        ("GIF", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "tiff_adobe_deflate"}, 0),
        ("TIFF", {"big_tiff": True}, 0),
        ("BMP", {}, 0),
        ("AVIF", {"quality": 95}, 6),
    ],
)
def test_every_format_of_the_list_is_accepted(image_format: str, options: dict[str, Any], tolerance: int) -> None:
    data = encode(QUARTERS, image_format, **options)
    accepted = assert_corners(data, [RED, GREEN, BLUE, YELLOW], tolerance)
    assert accepted.source_format == image_format
    assert accepted.media_type == "image/png"
    assert accepted.sha256 == hashlib.sha256(accepted.data).hexdigest()
    assert list(dict.fromkeys(chunk_names(accepted.data))) == [b"IHDR", b"IDAT", b"IEND"]


def test_pixels_of_a_lossless_image_stay_as_they_are() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    accepted = accept(encode(Image.fromarray(noise), "PNG"))
    np.testing.assert_array_equal(np.asarray(decode(accepted)), noise)
    assert accept(accepted.data).data == accepted.data


def test_an_accepted_image_does_not_change_nor_print_its_bytes() -> None:
    accepted = accept(encode(QUARTERS, "PNG"))
    assert len(repr(accepted)) < 300
    with pytest.raises(FrozenInstanceError):
        accepted.width = 1  # type: ignore[misc]


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF", "MPO"])
def test_of_an_animation_the_first_frame_is_taken(image_format: str) -> None:
    others = [Image.new("RGB", QUARTERS.size, color) for color in ("black", "white")]
    options = {"lossless": True} if image_format == "WEBP" else {"quality": 95}
    data = encode(QUARTERS, image_format, save_all=True, append_images=others, **options)
    assert_corners(data, [RED, GREEN, BLUE, YELLOW], tolerance=6)


@pytest.mark.parametrize("image_format", ["JPEG", "TIFF"])
def test_cmyk_comes_out_in_its_colours(image_format: str) -> None:
    # Pillow writes JPEG with Adobe's marker and inverted, as Photoshop does, and TIFF as it is.
    data = encode(QUARTERS.convert("CMYK"), image_format, **({"quality": 95} if image_format == "JPEG" else {}))
    if image_format == "JPEG":
        assert b"Adobe" in data
    assert_corners(data, [RED, GREEN, BLUE, YELLOW], tolerance=4)


@pytest.mark.parametrize("image_format", ["PNG", "GIF", "TIFF", "BMP"])
def test_a_palette_is_resolved(image_format: str) -> None:
    assert_corners(encode(QUARTERS.quantize(4), image_format), [RED, GREEN, BLUE, YELLOW])


@pytest.mark.parametrize("mode", ["1", "L"])
@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "BMP"])
def test_grey_and_black_and_white_become_rgb(mode: str, image_format: str) -> None:
    image = Image.new(mode, (WIDTH, HEIGHT), 0)
    image.paste(255, (WIDTH // 2, 0, WIDTH, HEIGHT))
    black = (0, 0, 0)
    assert_corners(encode(image, image_format), [black, WHITE, black, WHITE])


def make_16_bits() -> Image.Image:
    values = np.zeros((HEIGHT, WIDTH), dtype=np.uint16)
    values[: HEIGHT // 2, WIDTH // 2 :] = 10 * 257
    values[HEIGHT // 2 :, : WIDTH // 2] = 128 * 257 + 100
    values[HEIGHT // 2 :, WIDTH // 2 :] = 65_535
    return Image.fromarray(values)


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_16_bits_are_scaled_and_not_clipped(image_format: str) -> None:
    expected = [(value,) * 3 for value in (0, 10, 128, 255)]
    assert_corners(encode(make_16_bits(), image_format), expected)


def make_tiff(pixels: bytes, **tags: int) -> bytes:
    """A big-endian grey TIFF by hand, with tags such as `t258=16` over the usual ones."""
    numbers = {256: WIDTH, 257: HEIGHT, 258: 8, 259: 1, 262: 1} | {int(name[1:]): tag for name, tag in tags.items()}
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in sorted(numbers.items()))
    directory = struct.pack(">H", len(numbers)) + entries + struct.pack(">I", 0)
    return b"MM\x00*" + struct.pack(">I", 8 + len(pixels)) + pixels + directory


def test_16_bits_in_big_endian_order_are_read_right() -> None:
    pixels = np.asarray(make_16_bits()).astype(">u2").tobytes()
    data = make_tiff(pixels, t258=16, t273=8, t278=HEIGHT, t279=len(pixels))
    assert_corners(data, [(value,) * 3 for value in (0, 10, 128, 255)])


def make_png(width: int, height: int, *, bits: int, colour_type: int, rows: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bits_per_colour_are_scaled() -> None:
    row = b"\0" + struct.pack(">HHH", 65_535, 128 * 257, 0) * 40
    accepted = accept(make_png(40, 40, bits=16, colour_type=2, rows=row * 40))
    assert decode(accepted).getpixel((5, 5)) == (255, 128, 0)


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_laid_on_white(image_format: str) -> None:
    image = QUARTERS.convert("RGBA")
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, WIDTH // 2, HEIGHT // 2))
    alpha.paste(128, (WIDTH // 2, HEIGHT // 2, WIDTH, HEIGHT))
    image.putalpha(alpha)
    options = {"lossless": True, "exact": True} if image_format == "WEBP" else {}
    assert_corners(encode(image, image_format, **options), [WHITE, GREEN, BLUE, (255, 255, 127)], tolerance=1)


def test_transparency_of_grey_and_of_palettes_is_laid_on_white_too() -> None:
    grey = Image.new("LA", (WIDTH, HEIGHT), (0, 0))
    assert_corners(encode(grey, "PNG"), [WHITE] * 4)
    palette = QUARTERS.quantize(4)
    red = palette.getpixel((1, 1))
    for image_format in ("PNG", "GIF"):
        data = encode(palette, image_format, transparency=red)
        assert_corners(data, [WHITE, GREEN, BLUE, YELLOW])
    assert_corners(encode(QUARTERS, "PNG", transparency=RED), [WHITE, GREEN, BLUE, YELLOW])


ORIENTED = {
    1: [RED, GREEN, BLUE, YELLOW],
    2: [GREEN, RED, YELLOW, BLUE],
    3: [YELLOW, BLUE, GREEN, RED],
    4: [BLUE, YELLOW, RED, GREEN],
    5: [RED, BLUE, GREEN, YELLOW],
    6: [BLUE, RED, YELLOW, GREEN],
    7: [YELLOW, GREEN, BLUE, RED],
    8: [GREEN, YELLOW, RED, BLUE],
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_exif_orientation_is_applied_and_forgotten(image_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    accepted = assert_corners(encode(QUARTERS, image_format, exif=exif), ORIENTED[orientation], tolerance=30)
    assert (accepted.width, accepted.height) == ((WIDTH, HEIGHT) if orientation < 5 else (HEIGHT, WIDTH))
    assert not decode(accepted).getexif()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"\xff" * 50])
def test_broken_exif_is_ignored(exif: bytes) -> None:
    assert_corners(encode(QUARTERS, "JPEG", exif=exif), [RED, GREEN, BLUE, YELLOW], tolerance=10)


def test_no_metadata_survives() -> None:
    exif = Image.Exif()
    exif[0x010F] = "SECRET camera"
    exif.get_ifd(0x8825)[1] = "SECRET place"
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "SECRET text")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for data in (
        encode(QUARTERS, "PNG", exif=exif, pnginfo=text, icc_profile=profile, dpi=(300, 300)),
        encode(QUARTERS, "JPEG", exif=exif, comment=b"SECRET text", icc_profile=profile, dpi=(300, 300)),
    ):
        assert b"SECRET" in data
        accepted = accept(data + b"SECRET trailer")
        assert b"SECRET" not in accepted.data
        assert set(chunk_names(accepted.data)) == {b"IHDR", b"IDAT", b"IEND"}
        assert decode(accepted).info == {}


def make_profile_with_swapped_colours() -> bytes:
    """An sRGB profile whose red and blue primaries change places."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ", 128), profile.index(b"bXYZ", 128)
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


def test_a_sound_profile_is_converted_to_srgb() -> None:
    swapped = make_profile_with_swapped_colours()
    cyan = (0, 255, 255)
    assert_corners(encode(QUARTERS, "PNG", icc_profile=swapped), [BLUE, GREEN, RED, cyan], tolerance=2)
    assert_corners(encode(QUARTERS.quantize(4), "PNG", icc_profile=swapped), [BLUE, GREEN, RED, cyan], tolerance=2)
    transparent = QUARTERS.convert("RGBA")
    transparent.paste((0, 0, 0, 0), (0, 0, WIDTH // 2, HEIGHT // 2))
    assert_corners(encode(transparent, "PNG", icc_profile=swapped), [WHITE, GREEN, RED, cyan], tolerance=2)


def test_an_srgb_profile_changes_nothing_that_can_be_seen() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for image in (QUARTERS, QUARTERS.convert("L").convert("RGB")):
        expected = corners(image)
        assert_corners(encode(image, "PNG", icc_profile=profile), expected, tolerance=1)


def test_an_unsound_or_foreign_profile_is_ignored() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    rgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (b"nonsense", rgb[:200], lab):
        assert_corners(encode(QUARTERS, "PNG", icc_profile=profile), [RED, GREEN, BLUE, YELLOW])
    cmyk = encode(QUARTERS.convert("CMYK"), "JPEG", quality=95, icc_profile=rgb)
    assert_corners(cmyk, [RED, GREEN, BLUE, YELLOW], tolerance=4)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"hello, world",
        b"<html>not found</html>",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="100" height="100"/>',
        b"%PDF-1.7\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n",
        b"PK\x03\x04" + b"\x00" * 100,
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0" + b"\x00" * 100,
        b"GIF89a",
        b"RIFF\x00\x00\x00\x00WEBP",
        b"II*\x00",
        b"MM\x00*" + b"\xff" * 100,
        b"BM",
        b"BM" + b"\xff" * 100,
        b"\x00\x00\x00\x18ftypavif" + b"\x00" * 100,
        b"\x00\x00\x00\x18ftypheic" + b"\x00" * 100,
        encode(QUARTERS, "PPM"),
        encode(QUARTERS, "TGA"),
        encode(QUARTERS, "ICO"),
        encode(QUARTERS, "PDF"),
        encode(QUARTERS, "EPS"),
    ],
    ids=lambda data: repr(data[:12]),
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_no_image_of_the_list_is_refused(data: bytes) -> None:
    got = f"{len(data)} bytes that begin with ['\"]" if data else "an empty file"
    with pytest.raises(InvalidInputError, match=rf"^image must be a PNG, .* image, got {got}") as refusal:
        accept(data)
    assert refusal.value.field == "image"


NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.97])
@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
        ("AVIF", {}),
    ],
)
def test_a_truncated_image_is_refused(image_format: str, options: dict[str, Any], share: float) -> None:
    data = encode(NOISE, image_format, **options)
    with pytest.raises(InvalidInputError, match=r"^image must be .*, got .* bytes"):
        accept(data[: int(len(data) * share)])


def test_a_damaged_image_is_refused() -> None:
    data = bytearray(encode(NOISE, "PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(InvalidInputError, match=r"must be a complete image, got a PNG file of \d+ bytes"):
        accept(bytes(data))


@pytest.mark.parametrize("size", [(31, 200), (200, 31), (1, 1), (16, 16)])
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "WEBP"])
def test_a_small_image_is_refused(size: tuple[int, int], image_format: str) -> None:
    data = encode(Image.new("RGB", size), image_format)
    with pytest.raises(InvalidInputError, match=rf"sides of at least 32 px, got {size[0]}×{size[1]}"):
        accept(data)


def test_the_limits_themselves_are_allowed() -> None:
    data = encode(Image.new("RGB", (32, 500)), "PNG")
    assert accept(data, max_pixels=16_000, max_side_px=500).height == 500
    with pytest.raises(InvalidInputError, match="at most 15999 pixels, got 32×500 = 16000"):
        accept(data, max_pixels=15_999, max_side_px=500)
    with pytest.raises(InvalidInputError, match="sides of at most 499 px, got 32×500"):
        accept(data, max_pixels=16_000, max_side_px=499)


def test_30000_by_30000_is_refused_by_its_header() -> None:
    # No pixel data at all: had it been decoded, it would count as truncated.
    png = make_png(30_000, 30_000, bits=8, colour_type=2, rows=b"")
    bmp = bytearray(encode(QUARTERS, "BMP"))
    struct.pack_into("<ii", bmp, 18, 30_000, 30_000)
    gif = bytearray(encode(QUARTERS, "GIF"))
    struct.pack_into("<HH", gif, 6, 30_000, 30_000)
    jpeg = bytearray(encode(QUARTERS, "JPEG"))
    struct.pack_into(">HH", jpeg, jpeg.index(b"\xff\xc0") + 5, 30_000, 30_000)
    for data in (png, bytes(bmp), bytes(gif), bytes(jpeg)):
        with pytest.raises(InvalidInputError, match="at most 64000000 pixels, got 30000×30000 = 900000000"):
            accept(data, max_pixels=64_000_000, max_side_px=30_000)


def test_between_pillows_warning_and_its_error_our_limit_decides() -> None:
    png = make_png(10_000, 10_000, bits=8, colour_type=2, rows=b"")
    with pytest.raises(InvalidInputError, match="at most 64000000 pixels"):
        accept(png, max_pixels=64_000_000, max_side_px=30_000)
    with pytest.raises(InvalidInputError, match="truncated"):
        accept(png, max_pixels=100_000_000, max_side_px=30_000)


def test_a_tiff_with_enormous_tiles_is_refused_however_small_it_is() -> None:
    pixels = bytes(WIDTH * HEIGHT)
    assert_corners(make_tiff(pixels, t322=WIDTH, t323=HEIGHT, t324=8, t325=len(pixels)), [(0, 0, 0)] * 4)
    with pytest.raises(InvalidInputError, match="tiles of at most 1000000 pixels, got 60000×60000"):
        accept(make_tiff(pixels, t322=60_000, t323=60_000, t324=8, t325=len(pixels)))


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_a_kind_of_pixel_without_a_fixed_range_is_refused(mode: str) -> None:
    with pytest.raises(InvalidInputError, match="8 or 16 bits per channel"):
        accept(encode(Image.new(mode, (WIDTH, HEIGHT)), "TIFF"))


def test_the_message_names_the_field_it_came_in() -> None:
    with pytest.raises(InvalidInputError, match=r"^image_url must be") as refusal:
        accept_image(b"no", max_pixels=1, max_side_px=1, field="image_url")
    assert refusal.value.field == "image_url"


def test_threads_get_what_one_caller_gets() -> None:
    datas = [encode(QUARTERS.rotate(angle), "PNG") for angle in range(0, 360, 45)]
    expected = [accept(data).sha256 for data in datas]
    found: dict[int, str] = {}

    def work(index: int) -> None:
        found[index] = accept(datas[index % len(datas)]).sha256

    threads = [threading.Thread(target=work, args=(index,)) for index in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(32)] == expected * 4


FUZZED = [
    encode(QUARTERS, image_format, **options)
    for image_format, options in [
        ("PNG", {}),
        ("JPEG", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
        ("AVIF", {}),
    ]
]


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FUZZED), st.data())
def test_a_mutated_file_is_accepted_or_refused_and_nothing_else(original: bytes, data: st.DataObject) -> None:
    mutated = bytearray(original)
    for _ in range(data.draw(st.integers(1, 8))):
        # Headers are where a change goes furthest.
        end = data.draw(st.sampled_from([64, len(mutated)]))
        mutated[data.draw(st.integers(0, min(end, len(mutated)) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del mutated[data.draw(st.integers(0, len(mutated))) :]
    try:
        accepted = accept(bytes(mutated))
    except InvalidInputError:
        return
    decode(accepted)
