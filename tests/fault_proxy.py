"""A proxy that misbehaves on command, for anything in between: Postgres, Redis, an object store.

    FaultProxy      bytes over TCP: pass, refuse, freeze, delay, reset, cut, lose the answer to a statement
    HttpFaultProxy  the same request by request, so that a fault may be meant for some methods only, a status may be
                    answered instead, or a body be damaged

Both run in a thread of their own; a fault is set from the test's and strikes at once, open connections included.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

_CHUNK_BYTES = 64 * 2**10
_HOST = "127.0.0.1"


class Kind(StrEnum):
    PASS = auto()
    #: nobody listens, and who was connected is reset.
    REFUSE = auto()
    #: connections are accepted, and no byte moves until healed.
    FREEZE = auto()
    #: every chunk, or every HTTP request, comes late.
    DELAY = auto()
    #: connections are reset.
    RESET = auto()
    #: closed after so many bytes from the client.
    CUT_REQUEST = auto()
    #: closed after so many bytes to the client.
    CUT_ANSWER = auto()
    #: the server gets a statement and answers it, but the client does not hear.
    LOSE_ANSWER = auto()
    #: the server does not get a statement, and the connection ends.
    LOSE_REQUEST = auto()
    #: HTTP: answered here.
    STATUS = auto()
    #: HTTP: a byte of the body is changed.
    DAMAGE_REQUEST = auto()
    DAMAGE_ANSWER = auto()


@dataclass(frozen=True)
class Fault:
    kind: Kind = Kind.PASS
    seconds: float = 0.0
    after_bytes: int = 0
    status: int = 0
    #: HTTP methods that it is meant for; none: all.
    methods: Collection[str] = ()
    #: `LOSE_…`: the statement, and what the connection must have sent before.
    statement: bytes = b""
    preceded_by: bytes = b""

    def strikes(self, method: str | None) -> bool:
        return self.kind is not Kind.PASS and (method is None or not self.methods or method in self.methods)


class FaultProxy:
    """A context manager: listens from enter to exit."""

    def __init__(self, upstream: str) -> None:
        """
        Args:
            upstream: a URL; only its host and port count.
        """
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or _HOST, parts.port or 0)
        self.port = 0
        #: how often a fault has struck since it was set.
        self.strikes = 0
        self._fault = Fault()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._open)
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url(self, upstream: str) -> str:
        """The upstream's URL, by way of this proxy."""
        parts = urlsplit(upstream)
        login, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{login}{at}{_HOST}:{self.port}"))

    def heal(self) -> None:
        self.set(Fault())

    def set(self, fault: Fault) -> None:
        """Have this fault from now on, and no other."""
        self._call(lambda: self._set(fault))

    async def _set(self, fault: Fault) -> None:
        self._fault = fault
        self.strikes = 0
        if fault.kind in (Kind.REFUSE, Kind.RESET):
            for writer in list(self._writers):
                _reset(writer)
        if fault.kind is Kind.REFUSE:
            await self._stop_listening()
        elif self._server is None:
            await self._open()

    def _call(self, work: Callable[[], Any]) -> None:
        asyncio.run_coroutine_threadsafe(work(), self._loop).result(timeout=10)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accept, _HOST, self.port, backlog=128)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _close(self) -> None:
        await self._stop_listening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            if self._fault.kind is Kind.RESET:
                self.strikes += 1
                _reset(writer)
            else:
                await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        await self._hold()
        reader, writer = await asyncio.open_connection(*self._upstream)
        self._writers.add(writer)
        return reader, writer

    async def _hold(self, method: str | None = None) -> None:
        """Wait while everything is frozen, or for as long as everything is late."""
        if self._fault.kind in (Kind.FREEZE, Kind.DELAY) and self._fault.strikes(method):
            self.strikes += 1
        if self._fault.kind is Kind.DELAY and self._fault.strikes(method):
            await asyncio.sleep(self._fault.seconds)
        while self._fault.kind is Kind.FREEZE and self._fault.strikes(method):
            await asyncio.sleep(0.02)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await self._connect()
        link = _Link()
        pumps = [
            asyncio.ensure_future(self._pump(reader, server_writer, link, Kind.CUT_REQUEST)),
            asyncio.ensure_future(self._pump(server_reader, writer, link, Kind.CUT_ANSWER)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._writers.discard(server_writer)
            server_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link, cut: Kind) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            await self._hold()
            fault = self._fault
            if fault.kind in (Kind.LOSE_ANSWER, Kind.LOSE_REQUEST):
                if cut is Kind.CUT_REQUEST:
                    link.note(data, fault)
                if link.is_losing and (cut is Kind.CUT_ANSWER or fault.kind is Kind.LOSE_REQUEST):
                    self.strikes += 1
                    self._fault = Fault()  # once
                    return
            if fault.kind is cut:
                if link.fault is not fault:
                    link.fault, link.left = fault, fault.after_bytes
                if len(data) >= link.left:
                    self.strikes += 1
                    writer.write(data[: link.left])
                    return
                link.left -= len(data)
            writer.write(data)
            await writer.drain()


class _Link:
    """What is known of one connection."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.left = 0
        self.is_losing = False
        self._has_preceded = False

    def note(self, data: bytes, fault: Fault) -> None:
        self._has_preceded = self._has_preceded or fault.preceded_by in data
        self.is_losing = self.is_losing or (self._has_preceded and fault.statement in data)


class HttpFaultProxy(FaultProxy):
    """Requests one by one, each on a connection of its own to the server."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        method = head.partition(b" ")[0].decode()
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"expect:", b"connection:"))]
        if len(lines) < len(head.split(b"\r\n")) and b"100-continue" in head.lower():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(_content_length(head))
        await self._hold(method)
        fault = self._fault if self._fault.strikes(method) else Fault()
        self.strikes += fault.kind not in (Kind.PASS, Kind.DELAY, Kind.FREEZE)
        if fault.kind is Kind.STATUS:
            writer.write(b"HTTP/1.1 %d Fault\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % fault.status)
            await writer.drain()
            return
        if fault.kind is Kind.DAMAGE_REQUEST:
            body = _damaged(body)
        request = b"\r\n".join([lines[0], b"Connection: close", *lines[1:]]) + body
        if fault.kind is Kind.CUT_REQUEST:
            request = request[: len(request) - len(body) + fault.after_bytes]
        answer = await self._ask(request, hear=fault.kind is not Kind.CUT_REQUEST)
        if fault.kind is Kind.CUT_REQUEST:
            return
        answer_head, end, answer_body = answer.partition(b"\r\n\r\n")
        if fault.kind is Kind.DAMAGE_ANSWER:
            answer_body = _damaged(answer_body)
        if fault.kind is Kind.CUT_ANSWER:
            answer_body = answer_body[: fault.after_bytes]
        writer.write(answer_head + end + answer_body)
        await writer.drain()

    async def _ask(self, request: bytes, *, hear: bool) -> bytes:
        reader, writer = await asyncio.open_connection(*self._upstream)
        try:
            writer.write(request)
            await writer.drain()
            return await reader.read() if hear else b""
        finally:
            writer.close()


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def _damaged(body: bytes) -> bytes:
    """The same length, another byte in the middle."""
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 0xFF]) + body[middle + 1 :] if body else body


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST rather than FIN."""
    sock = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
