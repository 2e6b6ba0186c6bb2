"""The one way out: every request to a URL that a caller gave passes this guard.

A name is resolved once, every answer is checked, and the connection goes to a checked address, so that neither a second
DNS answer nor a redirect gets past. The socket and its TLS are opened here, with the URL's own name in SNI, certificate
check and Host; http.client only speaks over it. Environment variables for proxies are never read.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import urljoin

from shared.addresses import is_public
from shared.deadlines import Deadline, Watchdog, call_within
from shared.errors import DeliveryError, InvalidInputError
from shared.outbound_urls import NOT_PUBLIC, OutboundRules, Target, TargetError, parse_target, shown

USER_AGENT = "Animatic"
MAX_REDIRECTS = 3

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: a host may have many addresses; all are checked, so many are tried.
_MAX_TRIED = 4
_CHUNK_BYTES = 64 * 2**10

Address = IPv4Address | IPv6Address
Resolver = Callable[..., Sequence[tuple[Any, ...]]]


@dataclass(frozen=True)
class PostResult:
    """What the receiver answered."""

    status: int
    #: the pause that it asks for before the next try, s.
    retry_after_s: float | None
    duration_s: float

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


class OutboundGuard:
    """Sends requests to public addresses, and to the hosts that the operator named."""

    def __init__(
        self,
        *,
        allow: Sequence[str],
        ports: Collection[int],
        resolve: Resolver = socket.getaddrinfo,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """
        Args:
            allow: the setting `outbound_allow`; see `OutboundRules`.
            ports: the setting `outbound_ports`.
            resolve: called as `socket.getaddrinfo` is.
            ssl_context: default: the system's certificates.

        Raises:
            StartupError: an entry of `allow` cannot be read.
        """
        self._rules = OutboundRules(allow=allow, ports=ports)
        self._resolve = resolve
        self._ssl_context = ssl_context or ssl.create_default_context()

    def check_url(self, url: str, *, field: str) -> None:
        """Check all that can be checked without asking the DNS.

        Raises:
            InvalidInputError: the URL is refused.
        """
        try:
            self._rules.check(parse_target(url))
        except TargetError as error:
            raise InvalidInputError(f"{field} {error}, got {shown(url)}", field=field) from None

    def fetch(self, url: str, *, timeout_s: float, max_bytes: int, field: str = "image_url") -> bytes:
        """GET the URL, through at most `MAX_REDIRECTS` redirects, each checked like the first.

        Args:
            timeout_s: for all of it, name lookup and redirects included.

        Raises:
            InvalidInputError: it is refused, does not answer 200 in time, or is too large.
        """
        deadline = Deadline(timeout_s)
        hop = url
        try:
            for _ in range(MAX_REDIRECTS + 1):
                answer = self._get(hop, deadline, max_bytes)
                if isinstance(answer, bytes):
                    return answer
                hop = answer
            problem = f"must lead to an image within {MAX_REDIRECTS} redirects"
        except TargetError as error:
            problem = str(error) if hop == url else f"redirects to a URL, which {error}"
        except TimeoutError:
            problem = f"must be there within {timeout_s:g} s"
        except ssl.SSLCertVerificationError:
            problem = "must have a valid TLS certificate"
        except (OSError, HTTPException):
            # Refused, reset, cut short: one text, so that it is no port scanner.
            problem = "must give a complete HTTP answer"
        raise InvalidInputError(f"{field} {problem}, got {shown(url)}", field=field)

    def post(self, url: str, *, body: bytes, headers: Mapping[str, str], timeout_s: float) -> PostResult:
        """POST the body once; a redirect is an answer like any other.

        Raises:
            DeliveryError: there was no answer; permanent if the address is refused.
        """
        deadline = Deadline(timeout_s)
        try:
            target = parse_target(url)
            with self._connect(target, deadline) as connection:
                connection.request("POST", target.request_uri, body=body, headers=_headers(target, headers))
                with connection.getresponse() as response:
                    return PostResult(
                        status=response.status,
                        retry_after_s=_parse_retry_after(response.getheader("Retry-After")),
                        duration_s=deadline.elapsed(),
                    )
        except TargetError as error:
            raise DeliveryError(f"the webhook URL {error}", permanent=error.permanent) from None
        except TimeoutError:
            raise DeliveryError(f"the receiver did not answer within {timeout_s:g} s", permanent=False) from None
        except ssl.SSLCertVerificationError:
            raise DeliveryError("the receiver's TLS certificate is not valid", permanent=False) from None
        except (OSError, HTTPException) as error:
            raise DeliveryError("the receiver gave no complete HTTP answer", permanent=False) from error

    def _get(self, url: str, deadline: Deadline, max_bytes: int) -> bytes | str:
        """The body, or the URL that the answer redirects to."""
        target = parse_target(url)
        with self._connect(target, deadline) as connection:
            connection.request("GET", target.request_uri, headers=_headers(target, {"accept": "image/*"}))
            with connection.getresponse() as response:
                location = response.getheader("Location")
                if response.status in _REDIRECTS and location:
                    try:
                        return urljoin(url, location)
                    except ValueError:
                        raise TargetError("must redirect to a valid URL") from None
                if response.status != 200:
                    raise TargetError(f"must answer with status 200, not {response.status}")
                if response.getheader("Content-Encoding", "identity").lower() != "identity":
                    raise TargetError("must answer without a Content-Encoding")
                return _read_body(response, max_bytes)

    @contextmanager
    def _connect(self, target: Target, deadline: Deadline) -> Iterator[HTTPConnection]:
        """Open a connection to a checked address, and cut it when the time is up.

        Raises:
            TargetError: the target is refused.
            TimeoutError: the deadline passed, at whatever point.
        """
        self._rules.check(target)
        sock = _open_socket(self._find_addresses(target, deadline), target.port, deadline)
        try:
            if target.scheme == "https":
                # A handshake has one timeout for the whole of it, unlike reading.
                sock.settimeout(deadline.left())
                sock = self._ssl_context.wrap_socket(sock, server_hostname=target.host)
            sock.settimeout(deadline.left())
            watchdog = Watchdog(sock, deadline)
        except BaseException:
            sock.close()
            raise
        connection = HTTPConnection(target.host, target.port)
        connection.sock = sock
        try:
            yield connection
        except (OSError, HTTPException, TargetError) as error:
            if watchdog.has_fired:
                raise TimeoutError from error
            raise
        else:
            if watchdog.has_fired:
                raise TimeoutError
        finally:
            watchdog.disarm()
            connection.close()
            sock.close()

    def _find_addresses(self, target: Target, deadline: Deadline) -> list[Address]:
        """
        Raises:
            TargetError: an address is not public and the host not named; or there is none, which may change.
        """
        if target.address is not None:
            return [target.address]
        try:
            answers = call_within(
                deadline,
                lambda: self._resolve(target.host, target.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP),
            )
            addresses = [ip_address(answer[4][0]) for answer in answers]
        except TimeoutError:
            raise
        except (OSError, ValueError):
            raise TargetError(NOT_PUBLIC, permanent=False) from None
        if not addresses:
            raise TargetError(NOT_PUBLIC, permanent=False)
        if not self._rules.is_named(target) and not all(is_public(address) for address in addresses):
            raise TargetError(NOT_PUBLIC)
        return list(dict.fromkeys(addresses))


def _open_socket(addresses: Sequence[Address], port: int, deadline: Deadline) -> socket.socket:
    """Connect to the first address that answers; each gets an equal share of the time left."""
    tried = addresses[:_MAX_TRIED]
    failure = OSError("no address")
    for index, address in enumerate(tried):
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            # No IPv6 on this machine, say.
            failure = error
            continue
        try:
            sock.settimeout(deadline.left() / (len(tried) - index))
            sock.connect((str(address), port))
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure


def _headers(target: Target, headers: Mapping[str, str]) -> dict[str, str]:
    # Every request opens its own connection.
    fixed = {"host": target.host_header, "connection": "close"}
    return {"user-agent": USER_AGENT, **{name.lower(): value for name, value in headers.items()}, **fixed}


def _read_body(response: HTTPResponse, max_bytes: int) -> bytes:
    """Read to the end, and at no time hold more than one chunk above the limit.

    `read1`, since `read(n)` trusts a chunk size of -1 and then reads without end.
    """
    body = bytearray()
    while len(body) <= max_bytes and (response.length or 0) <= max_bytes:
        data = response.read1(_CHUNK_BYTES)
        if not data:
            if response.length:
                raise HTTPException("the body ended early")
            return bytes(body)
        body += data
    raise TargetError(f"must be at most {max_bytes} bytes")


def _parse_retry_after(value: str | None) -> float | None:
    """Seconds to wait; either form of RFC 9110, section 10.2.3. None if absent or unreadable."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit() and len(value) <= 12:
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
