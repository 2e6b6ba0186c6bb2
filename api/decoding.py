"""Accepting images in other processes: whatever a file does to the decoder, the API goes on."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

from api.decoder import receive_message, send_message
from api.images import AcceptedImage
from shared.deadlines import Deadline
from shared.errors import DecoderBusyError, InvalidInputError
from shared.settings import Settings

#: signature, then the length and name of the chunk that holds width and height; then 8 bits, RGB.
_PNG_HEAD = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_PNG_RGB = b"\x08\x02"

log = logging.getLogger(__name__)


class ImageDecoder:
    """A few warm decoder processes. Safe to share between threads; starts nothing until it is used or warmed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._idle: list[_Process] = []
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(settings.decoder_processes)
        self._is_closed = False

    def warm(self) -> None:
        """Start the processes, so that the first request need not."""
        for _ in range(self._settings.decoder_processes):
            self._put_back(_Process())

    def accept(self, data: bytes, *, field: str = "image") -> AcceptedImage:
        """`api.images.accept_image`, within the settings' limits of pixels, memory and time.

        Raises:
            InvalidInputError: the image is refused, takes too long or too much memory, or broke the decoder.
            DecoderBusyError: all processes were busy for as long as one image may take.
        """
        settings = self._settings
        if not self._slots.acquire(timeout=settings.decoder_timeout_s):
            raise DecoderBusyError("too many images are being decoded; try again")
        try:
            process = self._take()
            head = {
                "field": field,
                "max_pixels": settings.max_image_pixels,
                "max_side_px": settings.max_image_side_px,
                "memory_bytes": settings.decoder_memory_bytes,
                # The wall clock is looked at here; this ends a decoder whose API has died.
                "cpu_s": math.ceil(settings.decoder_timeout_s) + 1,
            }
            try:
                answer = process.ask(head, data, Deadline(settings.decoder_timeout_s))
            except TimeoutError:
                process.kill()
                raise InvalidInputError(
                    f"{field} must be decoded within {settings.decoder_timeout_s:g} s, got {len(data)} bytes",
                    field=field,
                ) from None
            except (OSError, EOFError, LookupError, ValueError):
                process.kill()
                log.warning("an image of %d bytes ended its decoder", len(data))
                raise InvalidInputError(
                    f"{field} must be an image that can be decoded, got {len(data)} bytes that end the decoder",
                    field=field,
                ) from None
            except BaseException:
                process.kill()
                raise
            self._put_back(process)
        finally:
            self._slots.release()
        if isinstance(answer, str):
            raise InvalidInputError(answer, field=field)
        return answer

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            processes, self._idle = self._idle, []
        for process in processes:
            process.kill()

    def _take(self) -> _Process:
        while True:
            with self._lock:
                if not self._idle:
                    break
                process = self._idle.pop()
            if process.is_running():
                return process
            process.kill()
        return _Process()

    def _put_back(self, process: _Process) -> None:
        with self._lock:
            if not self._is_closed:
                self._idle.append(process)
                return
        process.kill()


class _Process:
    """One `python -m api.decoder`. It ends by itself when this side of the socket is closed."""

    def __init__(self) -> None:
        self._sock, theirs = socket.socketpair()
        with theirs:
            self._popen = subprocess.Popen(
                # Pillow warns of damage in words; a stranger must not fill the log with them.
                [sys.executable, "-W", "ignore", "-m", "api.decoder"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                # No setting and no secret goes along.
                env={"PYTHONPATH": os.pathsep.join(sys.path), "LANG": "C.UTF-8"},
                start_new_session=True,
            )

    def ask(self, head: dict[str, Any], data: bytes, deadline: Deadline) -> AcceptedImage | str:
        """The image, or why it is refused. What comes back is not trusted any further than it must be.

        Raises:
            TimeoutError: the deadline passed.
            EOFError, OSError: the process has died.
            LookupError, ValueError: it does not answer as a decoder does.
        """
        self._sock.settimeout(deadline.left())
        send_message(self._sock, head, data)
        # A PNG is hardly larger than its pixels.
        most = 4 * head["max_pixels"] + 2**20
        answer, encoded = receive_message(self._sock, max_bytes=most, deadline=deadline)
        if "refusal" in answer:
            return str(answer["refusal"])
        width, height = int(answer["width"]), int(answer["height"])
        if not encoded.startswith(_PNG_HEAD + struct.pack(">II", width, height) + _PNG_RGB):
            raise ValueError("no PNG of that size")
        return AcceptedImage(
            data=encoded,
            sha256=hashlib.sha256(encoded).hexdigest(),
            width=width,
            height=height,
            media_type="image/png",
            source_format=str(answer["source_format"]),
        )

    def is_running(self) -> bool:
        return self._popen.poll() is None

    def kill(self) -> None:
        """End it and whatever it has forked."""
        self._sock.close()
        # Started by root, it is another user's by now: without the right to kill that, its closed socket ends it.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
