"""Folders on this machine's disk for what a process needs while it runs, also if it is killed.

Each is locked as long as its process lives: the kernel lets go of the lock however that ends. So whoever starts next
can tell which folders nobody uses any more. Source: flock(2).
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "animatic-scratch-"

log = logging.getLogger(__name__)


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """A new folder below the temporary directory, until the end of the block.

    A process that was forked inside the block does not remove it.

    Args:
        name: what it is for; it becomes a part of the folder's name.

    Raises:
        OSError: it cannot be made.
    """
    folder, lock = _make(name)
    owner = os.getpid()
    try:
        yield folder
    finally:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def remove_left_folders() -> None:
    """Remove the folders of this user's processes that were killed; to be called when a process starts."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it is in use, somebody else's, or just gone
            lock = _lock(folder)
            try:
                if os.fstat(lock).st_uid == os.geteuid():
                    shutil.rmtree(folder)
                    log.info("removed %s, which a process that was killed had left", folder)
            finally:
                os.close(lock)


def _make(name: str) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{name}-"))
        try:
            lock = _lock(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # somebody who starts took it for a left one before it was locked
        if folder.exists():
            return folder, lock
        os.close(lock)


def _lock(folder: Path) -> int:
    """Open and lock a folder; the lock lasts until the file descriptor is closed.

    Raises:
        OSError: it is not there, locked, not ours to read, or a link.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        raise
    return opened
