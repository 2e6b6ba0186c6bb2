"""A DNS server on loopback whose answers change from question to question, and a resolver that asks only it."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address

_TYPES = {1: 4, 28: 6}
_HEADER = struct.Struct(">HHHHHH")
_NAME_ERROR = 3


@dataclass
class DnsStub:
    """Answers A and AAAA questions; the addresses of a name are taken in turn, the last for ever."""

    port: int
    #: by name: what the first question gets, what the second, …
    answers: dict[str, list[tuple[str, ...]]]
    questions: list[str] = field(default_factory=list)
    _turns: dict[tuple[str, int], int] = field(default_factory=dict)

    def answer(self, query: bytes) -> bytes:
        identifier, _, _, _, _, _ = _HEADER.unpack_from(query)
        name, position = _read_name(query, _HEADER.size)
        (kind,) = struct.unpack_from(">H", query, position)
        self.questions.append(name)
        turns = self.answers.get(name)
        question = query[_HEADER.size : position + 4]
        if turns is None:
            return _HEADER.pack(identifier, 0x8180 | _NAME_ERROR, 1, 0, 0, 0) + question
        turn = self._turns.get((name, kind), 0)
        self._turns[name, kind] = turn + 1
        addresses = [ip_address(text) for text in turns[min(turn, len(turns) - 1)]]
        records = b"".join(
            struct.pack(">HHHIH", 0xC00C, kind, 1, 0, len(address.packed)) + address.packed
            for address in addresses
            if address.version == _TYPES.get(kind)
        )
        count = sum(address.version == _TYPES.get(kind) for address in addresses)
        return _HEADER.pack(identifier, 0x8180, 1, count, 0, 0) + question + records

    def getaddrinfo(self, host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        """As `socket.getaddrinfo`, by asking this server over UDP.

        Raises:
            socket.gaierror: there is no such name.
        """
        found: list[tuple[object, ...]] = []
        for kind in _TYPES:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(5)
                labels = b"".join(bytes([len(label)]) + label.encode() for label in host.split("."))
                question = labels + b"\0" + struct.pack(">HH", kind, 1)
                sock.sendto(_HEADER.pack(7, 0x0100, 1, 0, 0, 0) + question, ("127.0.0.1", self.port))
                reply = sock.recv(4096)
            _, flags, _, count, _, _ = _HEADER.unpack_from(reply)
            if flags & 0xF:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            position = _HEADER.size + len(question)
            for _ in range(count):
                (size,) = struct.unpack_from(">H", reply, position + 10)
                address = ip_address(reply[position + 12 : position + 12 + size])
                found.append((0, 0, 0, "", (str(address), port)))
                position += 12 + size
        return found


def _read_name(data: bytes, position: int) -> tuple[str, int]:
    labels = []
    while (length := data[position]) != 0:
        labels.append(data[position + 1 : position + 1 + length].decode())
        position += 1 + length
    return ".".join(labels), position + 1


@contextmanager
def dns_stub(answers: dict[str, list[tuple[str, ...]]]) -> Iterator[DnsStub]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        stub = DnsStub(server.getsockname()[1], answers)
        stops = threading.Event()

        def serve() -> None:
            while True:
                query, client = server.recvfrom(4096)
                if stops.is_set():
                    return
                server.sendto(stub.answer(query), client)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield stub
        finally:
            stops.set()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", ("127.0.0.1", stub.port))
            thread.join(5)
