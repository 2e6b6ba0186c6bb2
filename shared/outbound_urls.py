"""Reading the URLs that callers hand in: strictly, and once, so that what is checked is what is connected to."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from shared.addresses import is_public
from shared.errors import StartupError
from shared.exit_codes import ExitCode

MAX_URL_LENGTH = 2048
DEFAULT_PORTS = {"http": 80, "https": 443}
#: one text for "resolves to a private address" and "does not resolve", so that it tells nothing about the inside.
NOT_PUBLIC = "must name a host that can be resolved, and to public addresses only"

_SHAPE = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]*)", re.IGNORECASE)
#: spaces and control characters, which parsers drop or keep as they like; the backslash, a slash to some.
_AMBIGUOUS = re.compile(r"[\x00-\x20\x7f-\x9f\\]")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
#: what inet_aton(3) would take for a number: a name whose last label is one is an IPv4 address in disguise.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
#: names that never belong to the public internet (RFC 6761, RFC 6762, RFC 8375; `internal`: ICANN, 2024).
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal", ".home.arpa", ".onion")


class TargetError(ValueError):
    """The URL is refused; the message goes on from the field's name, as in `must use http or https`."""

    def __init__(self, reason: str, *, permanent: bool = True) -> None:
        super().__init__(reason)
        self.permanent = permanent


@dataclass(frozen=True)
class Target:
    """Where a request goes."""

    scheme: str
    #: lower case, in ASCII, without brackets and without a trailing dot.
    host: str
    #: the host, where it is written as an address.
    address: IPv4Address | IPv6Address | None
    port: int
    #: path and query.
    request_uri: str

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def parse_target(url: str) -> Target:
    """Read an absolute http or https URL.

    Raises:
        TargetError: it is none, or one that parsers disagree about.
    """
    if len(url) > MAX_URL_LENGTH:
        raise TargetError(f"must be at most {MAX_URL_LENGTH} characters long")
    if _AMBIGUOUS.search(url):
        raise TargetError("must have no spaces, control characters or backslashes")
    shape = _SHAPE.match(url)
    if shape is None:
        raise TargetError("must be an absolute URL that begins with http:// or https://")
    if "@" in shape["authority"]:
        raise TargetError("must have no user name or password")
    if "%" in shape["authority"]:
        raise TargetError("must have no percent sign in its host (no escapes, no IPv6 zones)")
    try:
        parsed = parse_url(url)
    except LocationParseError:
        # Its text quotes the URL in full, with a query that may be secret.
        raise TargetError("must have a valid host and port") from None
    scheme = shape["scheme"].lower()
    host, address = _read_host(parsed.host or "")
    port = DEFAULT_PORTS[scheme] if parsed.port is None else parsed.port
    return Target(scheme=scheme, host=host, address=address, port=port, request_uri=parsed.request_uri)


def _read_host(host: str) -> tuple[str, IPv4Address | IPv6Address | None]:
    host = host.lower().removesuffix(".")
    if host.startswith("["):
        try:
            address = ip_address(host.strip("[]"))
        except ValueError:
            raise TargetError("must have a valid IPv6 address in the brackets") from None
        return str(address), address
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise TargetError("must have a valid host name")
    if not _NUMBER.fullmatch(labels[-1]):
        return host, None
    try:
        return host, IPv4Address(host)
    except ValueError:
        raise TargetError("must write an IPv4 address as four decimal numbers without leading zeros") from None


class OutboundRules:
    """Which targets are open, as far as can be said without asking the DNS."""

    def __init__(self, *, allow: Iterable[str], ports: Collection[int]) -> None:
        """
        Args:
            allow: `HOST` opens a host on `ports`, `HOST:PORT` on that port only, also where its address is private.
            ports: open on every host.

        Raises:
            StartupError: an entry of `allow` is neither.
        """
        self._allow = frozenset(_read_entry(entry) for entry in allow)
        self._ports = frozenset(ports)

    def is_named(self, target: Target) -> bool:
        """Whether the operator named this host, so that its address need not be public."""
        return (target.host, None) in self._allow or (target.host, target.port) in self._allow

    def check(self, target: Target) -> None:
        """
        Raises:
            TargetError: the target is closed.
        """
        if target.port not in self._ports and (target.host, target.port) not in self._allow:
            open_ports = ", ".join(str(port) for port in sorted(self._ports))
            raise TargetError(f"must use one of the ports {open_ports}")
        if self.is_named(target):
            return
        if target.address is not None:
            if not is_public(target.address):
                raise TargetError(NOT_PUBLIC)
        elif "." not in target.host or target.host.endswith(_LOCAL_SUFFIXES):
            raise TargetError(NOT_PUBLIC)


def _read_entry(entry: str) -> tuple[str, int | None]:
    is_bare_ipv6 = entry.count(":") > 1 and not entry.startswith("[")
    try:
        target = parse_target(f"http://[{entry}]" if is_bare_ipv6 else f"http://{entry}")
    except TargetError as error:
        problem = str(error)
    else:
        if target.request_uri == "/" and not entry.endswith(("/", "?", "#", ":")):
            names_port = not is_bare_ipv6 and re.search(r":[0-9]+$", entry) is not None
            return target.host, target.port if names_port else None
        problem = "must be a host, or a host and a port"
    raise StartupError(
        f"ANIMATIC_OUTBOUND_ALLOW takes HOST or HOST:PORT; {entry!r} {problem}", exit_code=ExitCode.CONFIG
    )


def shown(url: str) -> str:
    """The URL as it may stand in messages and logs: without what may be secret, and not too long."""
    bare = re.sub(r"(?<=//)[^/]*@", "", re.split(r"[?#]", url, maxsplit=1)[0])
    return repr(bare if len(bare) <= 120 else f"{bare[:119]}…")
