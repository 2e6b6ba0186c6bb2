"""I9: no outbound request reaches a disallowed address. Only loopback is used; names come from an injected resolver."""

from __future__ import annotations

import datetime as dt
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import format_datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shared.errors import DeliveryError, InvalidInputError
from shared.outbound import OutboundGuard


def resolving_to(*answers: str) -> Callable[..., list[tuple[object, ...]]]:
    """A resolver with the same answers for every name."""

    def resolve(_host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", (answer, port)) for answer in answers]

    return resolve


@pytest.mark.parametrize(
    "answers",
    [
        ("127.0.0.1",),
        ("8.8.8.8", "10.0.0.1"),
        ("10.0.0.1", "8.8.8.8"),
        ("8.8.8.8", "2606:4700:4700::1111", "::1"),
        ("169.254.169.254",),
        ("64:ff9b::a9fe:a9fe",),
        ("::ffff:10.0.0.1",),
        ("fe80::1%eth0",),
        ("not an address",),
        (),
    ],
)
def test_a_name_is_refused_if_any_of_its_addresses_is_not_public(answers: tuple[str, ...]) -> None:
    guard = OutboundGuard(allow=(), ports=(80,), resolve=resolving_to(*answers))
    with pytest.raises(InvalidInputError, match="must name a host that can be resolved, and to public addresses only"):
        guard.fetch("http://example.com/", timeout_s=1, max_bytes=10)
    with pytest.raises(DeliveryError, match="must name a host that can be resolved, and to public addresses only"):
        guard.post("http://example.com/", body=b"", headers={}, timeout_s=1)


def test_a_refused_address_fails_for_good_and_a_missing_name_may_come_back() -> None:
    def fail(*_: object, **__: object) -> list[tuple[object, ...]]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for resolve, is_permanent in ((resolving_to("10.0.0.1"), True), (fail, False)):
        guard = OutboundGuard(allow=(), ports=(80,), resolve=resolve)
        with pytest.raises(DeliveryError) as failure:
            guard.post("http://example.com/", body=b"", headers={}, timeout_s=1)
        assert failure.value.permanent is is_permanent


def test_a_caller_cannot_tell_a_private_name_from_a_missing_one() -> None:
    def fail(*_: object, **__: object) -> list[tuple[object, ...]]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    messages = set()
    for resolve in (resolving_to("10.0.0.1"), resolving_to(), fail):
        with pytest.raises(InvalidInputError) as refusal:
            OutboundGuard(allow=(), ports=(80,), resolve=resolve).fetch("http://a.com/", timeout_s=1, max_bytes=1)
        messages.add(str(refusal.value))
    assert len(messages) == 1


def test_a_lookup_that_hangs_ends_with_the_deadline() -> None:
    release = threading.Event()

    def hang(*_: object, **__: object) -> list[tuple[object, ...]]:
        release.wait(10)
        return []

    guard = OutboundGuard(allow=(), ports=(80,), resolve=hang)
    start = time.monotonic()
    with pytest.raises(InvalidInputError, match=r"within 0\.2 s"):
        guard.fetch("http://example.com/", timeout_s=0.2, max_bytes=10)
    release.set()
    assert time.monotonic() - start < 3


#: made once: reading the system's certificates takes longer than most of these tests.
TRUST = ssl.create_default_context()

Handler = Callable[[socket.socket, bytes], None]


@dataclass
class Server:
    """A TCP server on loopback that records the head of each request and lets a function answer."""

    port: int
    requests: list[bytes] = field(default_factory=list)
    server_names: list[str | None] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.port}"


def read_request(stream: socket.socket) -> bytes:
    """Head and body; empty if the client went away before."""
    request = b""
    while True:
        head, ends, body = request.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if ends and len(body) >= (int(length[1]) if length else 0):
            return request
        data = stream.recv(65_536)
        if not data:
            return b""
        request += data


@contextmanager
def serving(
    answer: Handler | bytes, context: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> Iterator[Server]:
    listener = socket.create_server((host, 0))
    server = Server(listener.getsockname()[1])
    if context is not None:
        context.sni_callback = lambda _socket, name, _context: server.server_names.append(name)

    def serve_one(connection: socket.socket) -> None:
        with connection:
            try:
                stream = context.wrap_socket(connection, server_side=True) if context else connection
                with stream:
                    stream.settimeout(5)
                    request = read_request(stream)
                    if not request:
                        return
                    server.requests.append(request)
                    if isinstance(answer, bytes):
                        stream.sendall(answer)
                    else:
                        answer(stream, request)
            except OSError:
                # The client went away, as many of these tests want it to.
                return

    threads: list[threading.Thread] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=serve_one, args=(connection,))
            thread.start()
            threads.append(thread)

    acceptor = threading.Thread(target=serve)
    acceptor.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(5)
        for thread in threads:
            thread.join(5)


def answering(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def redirecting(location: str, status: int = 302) -> bytes:
    return answering(b"", f"Location: {location}", status=f"{status} Found")


def open_to(*servers: Server) -> OutboundGuard:
    return OutboundGuard(allow=[server.authority for server in servers], ports=(80, 443), ssl_context=TRUST)


def test_the_body_comes_back() -> None:
    with serving(answering(b"pixels")) as server:
        assert open_to(server).fetch(server.url, timeout_s=2, max_bytes=6) == b"pixels"


def test_a_chunked_body_and_one_that_ends_with_the_connection_come_back() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\npix\r\n3\r\nels\r\n0\r\n\r\n"
    for answer in (chunked, b"HTTP/1.0 200 OK\r\n\r\npixels"):
        with serving(answer) as server:
            assert open_to(server).fetch(server.url, timeout_s=2, max_bytes=6) == b"pixels"


def test_a_private_address_is_not_even_connected_to() -> None:
    with serving(answering(b"secret")) as server:
        guard = OutboundGuard(allow=(), ports=(server.port,), resolve=resolving_to("127.0.0.1"))
        for host in ("example.com", "127.0.0.1"):
            with pytest.raises(InvalidInputError):
                guard.fetch(f"http://{host}:{server.port}/", timeout_s=2, max_bytes=10)
        assert server.requests == []


def test_a_name_is_resolved_once_and_the_connection_goes_to_that_answer() -> None:
    with serving(answering(b"checked")) as checked, serving(answering(b"other"), host="127.0.0.2"):
        answers = iter(["127.0.0.1", "127.0.0.2", "127.0.0.2"])

        def resolve(_host: str, port: int, **_: object) -> list[tuple[object, ...]]:
            return [(0, 0, 0, "", (next(answers), port))]

        guard = OutboundGuard(allow=[f"a.example.com:{checked.port}"], ports=(80,), resolve=resolve)
        body = guard.fetch(f"http://a.example.com:{checked.port}/", timeout_s=2, max_bytes=10)
        assert body == b"checked"
        assert next(answers) == "127.0.0.2", "looked up more than once"


def test_the_next_address_is_tried_if_the_first_does_not_answer() -> None:
    with serving(answering(b"pixels")) as server:
        guard = OutboundGuard(
            allow=[f"a.com:{server.port}"], ports=(80,), resolve=resolving_to("127.0.0.3", "127.0.0.1")
        )
        assert guard.fetch(f"http://a.com:{server.port}/", timeout_s=2, max_bytes=10) == b"pixels"


def test_the_request_carries_the_urls_own_host_path_and_query() -> None:
    with serving(answering(b"")) as server:
        guard = OutboundGuard(allow=[f"b.com:{server.port}"], ports=(80,), resolve=resolving_to("127.0.0.1"))
        guard.fetch(f"http://B.com.:{server.port}/ü?q=1#top", timeout_s=2, max_bytes=10)
        head = server.requests[0].decode().lower().split("\r\n")
        assert head[0] == "get /%c3%bc?q=1 http/1.1"
        assert f"host: b.com:{server.port}" in head
        assert sum(line.startswith("host:") for line in head) == 1


def test_proxy_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(answering(b"proxied")) as proxy, serving(answering(b"direct")) as server:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.upper(), proxy.url)
        assert open_to(server).fetch(server.url, timeout_s=2, max_bytes=10) == b"direct"
        assert open_to(server).post(server.url, body=b"", headers={}, timeout_s=2).status == 200
        assert proxy.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_get_follows_a_redirect_to_an_open_host(status: int) -> None:
    with serving(answering(b"pixels")) as goal, serving(redirecting(goal.url, status)) as start:
        assert open_to(start, goal).fetch(start.url, timeout_s=2, max_bytes=10) == b"pixels"


def test_a_relative_redirect_stays_on_the_host() -> None:
    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall(answering(b"pixels") if b"GET /b?c" in request else redirecting("../b?c"))

    with serving(answer) as server:
        assert open_to(server).fetch(server.url + "a/a", timeout_s=2, max_bytes=10) == b"pixels"


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{secret}/",
        "http://localhost:{secret}/",
        "//127.0.0.1:{secret}/",
        "http://[::ffff:127.0.0.1]:{secret}/",
        "http://2130706433:{secret}/",
        "http://user@127.0.0.1:{start}/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:{secret}/",
        "http://[/",
        "http://169.254.169.254/",
    ],
)
def test_a_redirect_to_a_closed_place_is_refused(location: str) -> None:
    targets: dict[str, int] = {}

    def answer(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(redirecting(location.format(**targets)))

    with serving(answering(b"secret")) as secret, serving(answer) as start:
        targets.update(secret=secret.port, start=start.port)
        with pytest.raises(InvalidInputError):
            open_to(start).fetch(start.url, timeout_s=2, max_bytes=10)
        assert secret.requests == []
        assert len(start.requests) == 1


def test_redirects_end_after_three() -> None:
    with serving(redirecting("/again")) as server:
        with pytest.raises(InvalidInputError, match="within 3 redirects"):
            open_to(server).fetch(server.url, timeout_s=2, max_bytes=10)
        assert len(server.requests) == 4


def test_a_post_does_not_follow_a_redirect() -> None:
    with serving(answering(b"secret")) as goal, serving(redirecting(goal.url, 307)) as start:
        result = open_to(start, goal).post(start.url, body=b"{}", headers={}, timeout_s=2)
        assert result.status == 307
        assert not result.is_success
        assert goal.requests == []


@pytest.mark.parametrize("status", [201, 204, 304, 404, 500])
def test_a_status_other_than_200_is_no_image(status: int) -> None:
    with (
        serving(answering(b"", status=f"{status} X")) as server,
        pytest.raises(
            InvalidInputError, match=f"must answer with status 200, not {status}, got 'http://127"
        ) as refusal,
    ):
        open_to(server).fetch(server.url, timeout_s=2, max_bytes=10)
    assert refusal.value.field == "image_url"


def drip_head(connection: socket.socket, _request: bytes) -> None:
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Slow: " + b"a" * 200:
        connection.sendall(bytes([byte]))
        time.sleep(0.02)


def drip_body(connection: socket.socket, _request: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n")
    for _ in range(200):
        connection.sendall(b"a")
        time.sleep(0.02)


def drip_body_without_length(connection: socket.socket, _request: bytes) -> None:
    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
    for _ in range(200):
        connection.sendall(b"a")
        time.sleep(0.02)


def continue_for_ever(connection: socket.socket, _request: bytes) -> None:
    for _ in range(200):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.02)


def stay_silent(connection: socket.socket, _request: bytes) -> None:
    while connection.recv(1024):
        pass


@pytest.mark.parametrize("handler", [drip_head, drip_body, drip_body_without_length, continue_for_ever, stay_silent])
def test_a_slow_answer_ends_with_the_deadline_however_it_drips(handler: Handler) -> None:
    with serving(handler) as server:
        start = time.monotonic()
        with pytest.raises(InvalidInputError, match=r"must be there within 0\.2 s"):
            open_to(server).fetch(server.url, timeout_s=0.2, max_bytes=1000)
        assert time.monotonic() - start < 3


@pytest.mark.parametrize("handler", [drip_head, continue_for_ever, stay_silent])
def test_a_slow_receiver_ends_with_the_deadline_and_may_be_tried_again(handler: Handler) -> None:
    with serving(handler) as server:
        start = time.monotonic()
        with pytest.raises(DeliveryError, match=r"within 0\.2 s") as failure:
            open_to(server).post(server.url, body=b"{}", headers={}, timeout_s=0.2)
        assert time.monotonic() - start < 3
        assert not failure.value.permanent


def test_one_deadline_covers_all_redirects() -> None:
    def answer(connection: socket.socket, _request: bytes) -> None:
        time.sleep(0.3)
        connection.sendall(redirecting("/again"))

    with serving(answer) as server:
        with pytest.raises(InvalidInputError, match=r"within 0\.5 s"):
            open_to(server).fetch(server.url, timeout_s=0.5, max_bytes=10)
        assert len(server.requests) == 2


def test_a_tls_handshake_that_never_comes_ends_with_the_deadline() -> None:
    with serving(b"") as server:
        start = time.monotonic()
        with pytest.raises(InvalidInputError):
            open_to(server).fetch(f"https://{server.authority}/", timeout_s=0.2, max_bytes=10)
        assert time.monotonic() - start < 3


def endless(head: bytes) -> Handler:
    def answer(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(head)
        sent = 0
        while sent < 64 * 2**20:
            sent += connection.send(b"f" * 2**16)
        raise AssertionError("64 MiB were taken in")

    return answer


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFF\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: ",
        b"",
    ],
    ids=["until close", "length", "one chunk", "negative chunk", "endless chunk size", "endless header", "no HTTP"],
)
def test_an_endless_answer_is_cut_at_the_cap(head: bytes) -> None:
    with serving(endless(head)) as server:
        start = time.monotonic()
        with pytest.raises(InvalidInputError, match=r"must be at most 1000 bytes|complete HTTP answer"):
            open_to(server).fetch(server.url, timeout_s=5, max_bytes=1000)
        assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive.",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfi",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: 1\r\n" % index for index in range(200)) + b"\r\n",
    ],
    ids=["nothing", "no HTTP", "short body", "short chunk", "many headers"],
)
def test_a_broken_answer_is_refused_in_the_same_words_as_a_closed_port(answer: bytes) -> None:
    with serving(answer) as server, pytest.raises(InvalidInputError) as broken:
        open_to(server).fetch(server.url, timeout_s=2, max_bytes=100)
    with pytest.raises(InvalidInputError) as closed:
        open_to(server).fetch(server.url, timeout_s=2, max_bytes=100)
    assert str(broken.value) == str(closed.value)


def test_a_compressed_answer_is_refused() -> None:
    with serving(answering(b"\x1f\x8b", "Content-Encoding: gzip")) as server, pytest.raises(InvalidInputError):
        open_to(server).fetch(server.url, timeout_s=2, max_bytes=100)


def test_a_post_sends_body_and_headers_once_and_as_given() -> None:
    with serving(answering(b"ok")) as server:
        headers = {"webhook-id": "evt_1", "User-Agent": "Test", "content-type": "application/json"}
        result = open_to(server).post(server.url + "hook?a=b", body=b'{"a": 1}', headers=headers, timeout_s=2)
        assert result.is_success
        assert result.retry_after_s is None
        assert 0 < result.duration_s < 2
        head, _, body = server.requests[0].partition(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        assert lines[0] == "post /hook?a=b http/1.1"
        assert {"webhook-id: evt_1", "user-agent: test", "content-type: application/json"} <= set(lines)
        assert sum(line.startswith("user-agent:") for line in lines) == 1
        assert body == b'{"a": 1}'


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("120", 120, 120),
        ("0", 0, 0),
        ("in an hour", 3500, 3600),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
    ],
)
def test_retry_after_is_read_in_both_forms(value: str, low: float, high: float) -> None:
    if value == "in an hour":
        value = format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(hours=1), usegmt=True)
    with serving(answering(b"", f"Retry-After: {value}", status="503 Busy")) as server:
        result = open_to(server).post(server.url, body=b"", headers={}, timeout_s=2)
    assert result.status == 503
    assert result.retry_after_s is not None
    assert low <= result.retry_after_s <= high


@pytest.mark.parametrize("value", ["soon", "-1", "1.5", "9" * 400, "٣", ""])
def test_an_unreadable_retry_after_counts_as_none(value: str) -> None:
    answer = answering(b"", status="503 Busy").replace(b"\r\n\r\n", f"\r\nRetry-After: {value}\r\n\r\n".encode())
    with serving(answer) as server:
        assert open_to(server).post(server.url, body=b"", headers={}, timeout_s=2).retry_after_s is None


def test_a_receiver_that_is_not_there_may_come_back() -> None:
    with serving(b"") as server:
        pass
    with pytest.raises(DeliveryError) as failure:
        open_to(server).post(server.url, body=b"", headers={}, timeout_s=2)
    assert not failure.value.permanent


@dataclass(frozen=True)
class Authority:
    server: ssl.SSLContext
    client: ssl.SSLContext


def make_authority(folder: Path, *names: x509.GeneralName) -> Authority:
    """A self-signed certificate, for a server, and the trust in it, for a client."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return Authority(server, ssl.create_default_context(cafile=str(path)))


def test_tls_names_and_checks_the_urls_host_not_the_address(tmp_path: Path) -> None:
    authority = make_authority(tmp_path, x509.DNSName("right.com"))
    with serving(answering(b"pixels"), authority.server) as server:

        def fetch(host: str, context: ssl.SSLContext | None) -> bytes:
            guard = OutboundGuard(
                allow=[f"{host}:{server.port}"],
                ports=(443,),
                resolve=resolving_to("127.0.0.1"),
                ssl_context=context,
            )
            return guard.fetch(f"https://{host}:{server.port}/", timeout_s=2, max_bytes=10)

        assert fetch("right.com", authority.client) == b"pixels"
        assert server.server_names == ["right.com"]
        assert f"host: right.com:{server.port}".encode() in server.requests[0].lower()
        for host, context in (("wrong.com", authority.client), ("right.com", None)):
            with pytest.raises(InvalidInputError, match="must have a valid TLS certificate"):
                fetch(host, context)
        assert len(server.requests) == 1


def test_tls_to_an_address_checks_the_certificate_for_that_address(tmp_path: Path) -> None:
    authority = make_authority(tmp_path, x509.IPAddress(ip_address("127.0.0.1")))
    with serving(answering(b"pixels"), authority.server) as server:
        guard = OutboundGuard(allow=[server.authority], ports=(443,), ssl_context=authority.client)
        assert guard.fetch(f"https://{server.authority}/", timeout_s=2, max_bytes=10) == b"pixels"


def test_a_drip_over_tls_ends_with_the_deadline(tmp_path: Path) -> None:
    authority = make_authority(tmp_path, x509.IPAddress(ip_address("127.0.0.1")))
    with serving(drip_body, authority.server) as server:
        guard = OutboundGuard(allow=[server.authority], ports=(443,), ssl_context=authority.client)
        start = time.monotonic()
        with pytest.raises(InvalidInputError, match=r"within 0\.4 s"):
            guard.fetch(f"https://{server.authority}/", timeout_s=0.4, max_bytes=1000)
        assert time.monotonic() - start < 3


def test_a_bad_certificate_at_a_receiver_may_be_mended(tmp_path: Path) -> None:
    authority = make_authority(tmp_path, x509.DNSName("right.com"))
    with serving(answering(b""), authority.server) as server, pytest.raises(DeliveryError, match="TLS") as failure:
        open_to(server).post(f"https://{server.authority}/", body=b"", headers={}, timeout_s=2)
    assert not failure.value.permanent
