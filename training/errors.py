"""What ends a command with one sentence, and where other libraries' errors become such.

TrainingError       something failed; exit code 1
└─ RefusedError     it cannot be done as asked, and nothing was changed; exit code 2
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


class TrainingError(Exception):
    """A command failed; the message is one sentence that says what to do."""

    exit_code = 1


class RefusedError(TrainingError):
    """A command cannot be done as it was asked for; nothing was begun or changed."""

    exit_code = 2


@contextmanager
def reading(path: Path, otherwise: str = "train anew with another folder as --run") -> Iterator[None]:
    """Around all that is done with what a file of a run says.

    Args:
        path: of the file.
        otherwise: what to do when there is no copy of it.

    Raises:
        TrainingError: the file is missing or damaged, or does not fit the network.
    """
    try:
        yield
    except TrainingError:
        raise
    # Unpickling damaged bytes may raise anything, says pickle's documentation.
    except Exception as error:
        raise TrainingError(
            f"{path} cannot be used ({reason(error)}): put a whole copy in its place, or {otherwise}"
        ) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around the writing of a file or folder.

    Raises:
        TrainingError: it could not be written, as when the disk is full.
    """
    try:
        yield
    # torch raises RuntimeError where the system's error is an OSError.
    except (OSError, RuntimeError, SafetensorError) as error:
        raise TrainingError(
            f"{path} could not be written ({reason(error)}): see to its disk, and run the same command again"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all: what is written to the path given takes the place of `path` at the end.

    Raises:
        TrainingError: it could not be written; `path` is as it was.
    """
    partial = path.with_name(f"{path.name}.partial")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def reason(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"without {error}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(":") if lines else type(error).__name__
