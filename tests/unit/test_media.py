"""Pixels in and out."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from shared.catalogue import find_entry, resolve
from shared.errors import EncodingError, UndecodableImageError
from shared.params import FramesFormat, GenerationOptions, GenerationParams, ResizeMode
from shared.states import Phase
from shared.video import VideoUnreadableError, probe_mp4
from worker.double import DoublePipeline
from worker.media import encode_frames, encode_mp4, prepare_image


def params(**options: Any) -> GenerationParams:
    chosen = {"width": 128, "height": 64, "num_frames": 5, "seed": 1, **options}
    return resolve(GenerationOptions(**chosen), find_entry("tiny"))


def file_bytes(image: PIL.Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def gradient(width: int = 128, height: int = 64) -> PIL.Image.Image:
    red = np.tile(np.linspace(0, 255, width, dtype=np.uint8), (height, 1))
    green = np.tile(np.linspace(0, 255, height, dtype=np.uint8)[:, None], (1, width))
    return PIL.Image.fromarray(np.dstack([red, green, np.full_like(red, 99)]))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"])
def test_every_mode_becomes_rgb_of_the_size_asked_for(mode: str) -> None:
    source = gradient(90, 70)
    image = source.convert("L").convert(mode) if mode in ("I", "I;16", "F") else source.convert(mode)
    file_format = "TIFF" if mode not in ("P", "PA", "RGBA", "LA") else "PNG"
    if mode == "PA":
        image, file_format = source.convert("P"), "GIF"
    prepared = prepare_image(file_bytes(image, file_format), params())
    assert (prepared.mode, prepared.size) == ("RGB", (128, 64))


def test_sixteen_bit_levels_are_scaled_not_clipped() -> None:
    levels = np.tile(np.linspace(0, 65535, 128).astype(np.uint16), (64, 1))
    prepared = np.asarray(prepare_image(file_bytes(PIL.Image.fromarray(levels)), params()))
    assert abs(int(prepared[32, 64, 0]) - 128) <= 2
    assert prepared[32, 127, 0] == 255


def test_an_exif_rotated_photo_is_turned_upright() -> None:
    upright = gradient()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the viewer turns by 270°
    stored = file_bytes(upright.transpose(PIL.Image.Transpose.ROTATE_90), "PNG", exif=exif)
    assert np.array_equal(np.asarray(prepare_image(stored, params())), np.asarray(upright))


def test_transparent_pixels_become_white() -> None:
    prepared = prepare_image(file_bytes(PIL.Image.new("RGBA", (128, 64), (200, 0, 0, 0))), params())
    assert prepared.getpixel((5, 5)) == (255, 255, 255)


def test_an_animation_gives_its_first_frame() -> None:
    first, second = PIL.Image.new("RGB", (128, 64), "red"), PIL.Image.new("RGB", (128, 64), "blue")
    stored = file_bytes(first, "GIF", save_all=True, append_images=[second])
    assert prepare_image(stored, params()).getpixel((9, 9)) == (255, 0, 0)


def test_crop_keeps_the_proportions_and_cuts_the_sides() -> None:
    source = PIL.ImageOps.expand(PIL.Image.new("RGB", (64, 64), "red"), border=(64, 0), fill="blue")
    prepared = prepare_image(file_bytes(source), params(width=64, resize_mode=ResizeMode.CROP))
    assert set(np.unique(np.asarray(prepared)[:, :, 2])) == {0}


def test_pad_shows_all_on_black() -> None:
    source = PIL.Image.new("RGB", (64, 64), "red")
    prepared = np.asarray(prepare_image(file_bytes(source), params(resize_mode=ResizeMode.PAD)))
    assert tuple(prepared[32, 10]) == (0, 0, 0)
    assert tuple(prepared[32, 64]) == (255, 0, 0)


def test_stretch_shows_all_and_fills_all() -> None:
    prepared = np.asarray(prepare_image(file_bytes(gradient(64, 64)), params(resize_mode=ResizeMode.STRETCH)))
    assert prepared[32, 0, 0] < 10
    assert prepared[32, 127, 0] > 245


@pytest.mark.parametrize(
    "data",
    [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(50), file_bytes(gradient())[:200]],
    ids=["empty", "text", "broken png", "truncated"],
)
def test_what_is_no_whole_image_is_refused(data: bytes) -> None:
    with pytest.raises(UndecodableImageError, match="cannot be read"):
        prepare_image(data, params())


def test_an_mp4_decodes_to_the_frames_that_went_in(tmp_path: Path) -> None:
    frames = np.stack([np.asarray(gradient())] * 7)
    encode_mp4(frames, 9, tmp_path / "video.mp4")
    probe = probe_mp4(tmp_path / "video.mp4")
    assert (probe.num_frames, probe.width, probe.height, probe.fps) == (7, 128, 64, 9.0)
    assert (probe.codec, probe.pix_fmt) == ("h264", "yuv420p")


def test_an_mp4_has_its_index_in_front(tmp_path: Path) -> None:
    encode_mp4(np.stack([np.asarray(gradient())] * 3), 7, tmp_path / "video.mp4")
    content = (tmp_path / "video.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


def test_a_failed_encode_says_what_ffmpeg_said_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(EncodingError, match="No such file or directory"):
        encode_mp4(np.zeros((2, 64, 64, 3), np.uint8), 7, tmp_path / "missing" / "video.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_mp4_is_unreadable(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (8, 64, 128, 3)).astype(np.uint8)
    encode_mp4(noise, 7, tmp_path / "video.mp4")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes((tmp_path / "video.mp4").read_bytes()[:-3000])
    with pytest.raises(VideoUnreadableError, match=r"cut\.mp4"):
        probe_mp4(cut)


@pytest.mark.parametrize(
    ("frames_format", "magic"),
    [(FramesFormat.PNG, b"\x89PNG"), (FramesFormat.JPEG, b"\xff\xd8"), (FramesFormat.WEBP, b"RIFF")],
)
def test_frames_are_kept_in_the_format_asked_for(frames_format: FramesFormat, magic: bytes, tmp_path: Path) -> None:
    frames = np.stack([np.asarray(gradient())] * 3)
    paths = encode_frames(frames, frames_format, tmp_path / "frames")
    assert [path.stem for path in paths] == ["frame_0000", "frame_0001", "frame_0002"]
    assert all(path.read_bytes().startswith(magic) for path in paths)
    back = np.asarray(PIL.Image.open(paths[1])).astype(int)
    assert np.abs(back - frames[1]).mean() < 3


def test_png_frames_are_lossless_and_none_writes_nothing(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (1, 64, 64, 3)).astype(np.uint8)
    [path] = encode_frames(frames, FramesFormat.PNG, tmp_path)
    assert np.array_equal(np.asarray(PIL.Image.open(path)), frames[0])
    assert encode_frames(frames, FramesFormat.NONE, tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_the_double_counts_steps_repeats_itself_and_lets_a_stop_through() -> None:
    heard: list[tuple[Phase, int, int]] = []
    pipeline = DoublePipeline(step_s=0)
    chosen = params(num_inference_steps=3, decode_chunk_size=2)
    first = pipeline.generate(gradient(), chosen, lambda *progress: heard.append(progress))
    assert heard == [(Phase.DENOISE, step, 3) for step in range(4)] + [(Phase.DECODE, n, 5) for n in (0, 2, 4, 5)]
    assert first.frames.shape == (5, 64, 128, 3)
    assert first.decode_chunk_size == 2
    assert not np.array_equal(first.frames[0], first.frames[4])
    assert np.array_equal(pipeline.generate(gradient(), chosen, lambda *_: None).frames, first.frames)

    def stop(phase: Phase, step: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        pipeline.generate(gradient(), chosen, stop)
