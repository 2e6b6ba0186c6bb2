"""Folders of photos: which files are taken, and what is said of those that are none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import PIL.Image
import PIL.ImageOps

from shared.pictures import DECODING_ERRORS, flatten
from training.errors import RefusedError, reason

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
#: photos that come with the package; its README lists each with its licence.
BUNDLED = Path(__file__).parent / "photos"


def find_photos(directory: Path) -> list[Path]:
    """All photos below a directory, in a fixed order.

    Raises:
        RefusedError: there is none, or no such directory.
    """
    found = sorted(path for path in directory.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        wrong = "has no photo in it" if directory.is_dir() else "is not a folder"
        raise RefusedError(f"{directory} {wrong}: name one with files that end in {', '.join(SUFFIXES)}")
    return found


def open_photo(path: Path) -> PIL.Image.Image:
    """The photo, upright, RGB, as the service takes it.

    Raises:
        RefusedError: it cannot be decoded.
    """
    try:
        with PIL.Image.open(path) as image:
            return flatten(PIL.ImageOps.exif_transpose(image))
    except DECODING_ERRORS as error:
        raise RefusedError(
            f"{path} cannot be decoded ({reason(error)}): replace it by a whole photo, or take it out of the folder"
        ) from error


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
