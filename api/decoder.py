"""`python -m api.decoder`: decodes images for the API, in processes that may die.

This process only waits. For each image it forks a child, which takes the request off the socket, limits itself, parses
the strangers' bytes, answers, and is gone: nothing that one image does to a decoder can reach the next one's. The
libraries are loaded once, here, so a child costs a fork and no start.

A message is a length (4 bytes, big-endian), that many bytes of JSON, and the bytes whose `size` the JSON gives.
Standard input is the socket.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from io import BytesIO
from typing import Any

from PIL import AvifImagePlugin, Image

from api.images import accept_image
from api.landlock import close_off
from shared.deadlines import Deadline
from shared.errors import InvalidInputError
from shared.processes import die_with_parent

_LENGTH = struct.Struct(">I")
_HEAD_BYTES_MAX = 64 * 2**10
_NOBODY = 65_534
_OPEN_FILES_MAX = 16
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


def send_message(sock: socket.socket, head: dict[str, Any], data: bytes = b"") -> None:
    text = json.dumps({**head, "size": len(data)}).encode()
    sock.sendall(_LENGTH.pack(len(text)) + text)
    sock.sendall(data)


def receive_message(
    sock: socket.socket, *, max_bytes: int = sys.maxsize, deadline: Deadline | None = None
) -> tuple[dict[str, Any], bytes]:
    """
    Args:
        max_bytes: the most that the message may hold besides its JSON.

    Raises:
        EOFError: the other side is gone.
        TimeoutError: the deadline passed.
        ValueError: it is no such message.
    """
    (length,) = _LENGTH.unpack(_receive(sock, _LENGTH.size, deadline))
    if length > _HEAD_BYTES_MAX:
        raise ValueError(f"a head of {length} bytes")
    head: dict[str, Any] = json.loads(_receive(sock, length, deadline))
    size = int(head["size"])
    if not 0 <= size <= max_bytes:
        raise ValueError(f"a message of {size} bytes")
    return head, _receive(sock, size, deadline)


def _receive(sock: socket.socket, size: int, deadline: Deadline | None) -> bytes:
    data = bytearray(size)
    view = memoryview(data)
    done = 0
    while done < size:
        if deadline is not None:
            sock.settimeout(deadline.left())
        count = sock.recv_into(view[done:])
        if count == 0:
            raise EOFError
        done += count
    return bytes(data)


def main() -> None:
    sock = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    # One thread: that of a child whose limits forbid more.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    _warm_up()
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        # A child must not look into this process.
        prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    close_off()
    while sock.recv(1, socket.MSG_PEEK):
        child = os.fork()
        if child == 0:
            try:
                _serve_one(sock)
            finally:
                os._exit(1)  # unless it answered
        if _wait(child, sock) != 0:
            # What it left unread or half said is nobody's: the API starts another process.
            return


def _wait(child: int, sock: socket.socket) -> int:
    """The child's status; it is killed when the API closes its side, since the API may not have the right to."""
    if sys.platform == "linux":
        ended = os.pidfd_open(child)
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(sock, 0)  # reported is only that it was closed
        if ended not in [file for file, _ in poll.poll()]:
            os.kill(child, signal.SIGKILL)
        os.close(ended)
    return os.waitpid(child, 0)[1]


def _warm_up() -> None:
    # Whatever Pillow loads late, it loads now, and not in every child.
    image = Image.new("RGB", (32, 32))
    for name in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"):
        file = BytesIO()
        image.save(file, name)
        accept_image(file.getvalue(), max_pixels=1024, max_side_px=32)


def _serve_one(sock: socket.socket) -> None:
    die_with_parent()
    head, data = receive_message(sock)
    _limit(memory_bytes=head["memory_bytes"], cpu_s=head["cpu_s"])
    try:
        image = accept_image(data, max_pixels=head["max_pixels"], max_side_px=head["max_side_px"], field=head["field"])
    except InvalidInputError as error:
        send_message(sock, {"refusal": str(error)})
    except MemoryError:
        limit = head["memory_bytes"]
        send_message(sock, {"refusal": f"{head['field']} must take at most {limit} bytes of memory to decode"})
    else:
        answer = {"width": image.width, "height": image.height, "sha256": image.sha256}
        send_message(sock, {**answer, "media_type": image.media_type, "source_format": image.source_format}, image.data)
    os._exit(0)


def _limit(*, memory_bytes: int, cpu_s: int) -> None:
    """What a decoder that has been taken over can still do is use its memory and its time."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES_MAX, _OPEN_FILES_MAX))
    # No process and no thread besides this one.
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


if __name__ == "__main__":
    main()
