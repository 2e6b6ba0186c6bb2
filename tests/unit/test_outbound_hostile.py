"""I9 against somebody who tries: a corpus of URLs, names that change their answers, and a spy on every socket."""

from __future__ import annotations

import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import Any

import pytest
from dns_stub import dns_stub
from hostile_urls import all_hostile

from shared.errors import DeliveryError, InvalidInputError
from shared.outbound import OutboundGuard


class Spy:
    """Sees every connect, send and look-up of this process, whoever makes it."""

    def __init__(self) -> None:
        self.is_watching = False
        self.connected: list[tuple[Any, ...]] = []
        #: by UDP: the stub's own.
        self.sent_to: list[tuple[Any, ...]] = []
        self.looked_up: list[str] = []
        sys.addaudithook(self._see)  # cannot be taken off again

    def _see(self, event: str, details: tuple[Any, ...]) -> None:
        if not self.is_watching:
            return
        if event == "socket.connect":
            self.connected.append(details[1])
        elif event == "socket.sendto":
            self.sent_to.append(details[1])
        elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
            self.looked_up.append(details[0])


SPY = Spy()
HOSTILE = all_hostile()


@pytest.fixture(autouse=True)
def spy() -> Iterator[Spy]:
    SPY.connected.clear()
    SPY.sent_to.clear()
    SPY.looked_up.clear()
    SPY.is_watching = True
    yield SPY
    SPY.is_watching = False
    # Whatever a test does: no packet leaves this machine, and no name is looked up outside the stub.
    assert all(ip_address(address[0]).is_loopback for address in SPY.connected + SPY.sent_to)
    assert SPY.looked_up == []


def test_the_spy_sees_a_connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.connect(server.getsockname())
        assert SPY.connected == [server.getsockname()]


def refused(guard: OutboundGuard, url: str) -> None:
    """By each of the ways in."""
    with pytest.raises(InvalidInputError):
        guard.fetch(url, timeout_s=2, max_bytes=100)
    with pytest.raises(DeliveryError):
        guard.post(url, body=b"{}", headers={}, timeout_s=2)


def test_no_hostile_url_opens_a_socket_or_asks_for_a_name(spy: Spy) -> None:
    assert len(HOSTILE) >= 300
    # The real resolver: if it were asked, the spy would see it.
    guard = OutboundGuard(allow=(), ports=(80, 443))
    for url in HOSTILE:
        refused(guard, url)
        with pytest.raises(InvalidInputError):
            guard.check_url(url, field="webhook_url")
    assert spy.connected == []
    print(f"\n{len(HOSTILE)} hostile URLs tried, three ways each")


PRIVATE = ["127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.0.1", "192.168.0.1", "0.0.0.0", "224.0.0.1"]
PRIVATE_V6 = ["::1", "fe80::1", "fd00:ec2::254", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "ff02::1"]


@pytest.mark.parametrize("address", [*PRIVATE, *PRIVATE_V6])
def test_a_name_that_resolves_to_a_disallowed_address_is_not_connected_to(address: str, spy: Spy) -> None:
    # Alone, before and behind a public address.
    turns = [(address,), (address, "8.8.8.8"), ("8.8.8.8", address), ("2606:4700:4700::1111", address)]
    with dns_stub({f"t{n}.rebind.test": [turn] for n, turn in enumerate(turns)}) as dns:
        guard = OutboundGuard(allow=(), ports=(80,), resolve=dns.getaddrinfo)
        for n in range(len(turns)):
            refused(guard, f"http://t{n}.rebind.test/")
        assert spy.connected == []
        assert Counter(dns.questions) == Counter({f"t{n}.rebind.test": 4 for n in range(len(turns))})


def test_a_name_that_changes_its_answer_after_the_check_gets_nowhere() -> None:
    """The classic: public at the first question, loopback at every later one."""
    connected: list[str] = []
    with dns_stub({"rebind.test": [("8.8.8.8",), ("127.0.0.1",)]}) as dns, watched_connects(connected):
        guard = OutboundGuard(allow=(), ports=(80,), resolve=dns.getaddrinfo)
        with pytest.raises(InvalidInputError):
            guard.fetch("http://rebind.test/", timeout_s=2, max_bytes=100)
        # The first answer was checked, and only to it a connection was tried; nobody asked again.
        assert connected == ["8.8.8.8"]
        assert Counter(dns.questions)["rebind.test"] == 2  # A and AAAA, once
        refused(guard, "http://rebind.test/")
        assert connected == ["8.8.8.8"]


def test_each_hop_of_a_redirect_is_resolved_and_checked_anew() -> None:
    connected: list[str] = []
    with dns_stub({"first.test": [("127.0.0.1",)], "second.test": [("10.0.0.1",)]}) as dns:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            answering(server, b"HTTP/1.1 302 Found\r\nLocation: http://second.test/\r\nContent-Length: 0\r\n\r\n")
            guard = OutboundGuard(allow=[f"first.test:{port}"], ports=(80,), resolve=dns.getaddrinfo)
            with watched_connects(connected), pytest.raises(InvalidInputError, match="redirects to a URL, which must"):
                guard.fetch(f"http://first.test:{port}/", timeout_s=2, max_bytes=100)
        assert connected == ["127.0.0.1"]
        assert "second.test" in dns.questions


def test_an_endless_body_is_cut_at_the_cap() -> None:
    sent = [0]

    def pour(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
            sent[0] += 65_536

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        answering(server, pour)
        guard = OutboundGuard(allow=[f"127.0.0.1:{port}"], ports=(80,))
        with pytest.raises(InvalidInputError, match="must be at most 1000000 bytes"):
            guard.fetch(f"http://127.0.0.1:{port}/", timeout_s=20, max_bytes=1_000_000)
    # What the kernel's buffers hold besides.
    assert sent[0] < 20 * 2**20


def answering(server: socket.socket, answer: Any) -> None:
    """Serve one connection in the background: with these bytes, or by this function."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError):
            connection.recv(65_536)
            if isinstance(answer, bytes):
                connection.sendall(answer)
            else:
                answer(connection)

    threading.Thread(target=serve, daemon=True).start()


@contextmanager
def watched_connects(connected: list[str]) -> Iterator[None]:
    """Note where TCP connections go, and let none leave this machine."""
    connect = socket.socket.connect

    def note(sock: socket.socket, address: Any) -> None:
        connected.append(address[0])
        if not ip_address(address[0]).is_loopback:
            raise ConnectionRefusedError("only loopback in tests")
        connect(sock, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", note)
        yield
