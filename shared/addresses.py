"""Which IP addresses a request of a caller's making may reach.

`ipaddress.is_global` alone is not safe for this: depending on the Python it is true for `64:ff9b::a9fe:a9fe` (NAT64 of
the metadata address), for multicast, for 6to4, and always for 168.63.129.16. So the rule is written out here. For IPv6
it is turned round: all that is not global unicast (2000::/3) is refused, and the list names the exceptions within that.

Source: IANA, IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890),
https://www.iana.org/assignments/iana-ipv4-special-registry, https://www.iana.org/assignments/iana-ipv6-special-registry.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

_REFUSED_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # "this network"; Linux connects 0.0.0.0 to loopback
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; holds Alibaba's metadata, 100.100.100.200
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host agent, a public address by the registry
        "169.254.0.0/16",  # link-local; holds the clouds' metadata, 169.254.169.254
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; holds Oracle's metadata, 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays, withdrawn
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo 2001::/32, benchmarking, ORCHID, anycast
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)

#: DNS64's well-known prefix: how an IPv6-only network reaches the IPv4 internet (RFC 6052).
_NAT64 = IPv6Network("64:ff9b::/96")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether the address belongs to the public internet, and to no special purpose.

    An IPv6 address that carries an IPv4 address is refused whatever it carries: IPv4-mapped and -compatible, 6to4,
    Teredo, and NAT64's local prefix 64:ff9b:1::/48, where the place of the IPv4 address is the operator's choice. Only
    behind NAT64's well-known prefix the IPv4 address decides, since there it is the ordinary way out.

    A NAT64 prefix that an operator took out of global unicast space cannot be told from other addresses.
    """
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _REFUSED_V4)
    if address.scope_id is not None:
        return False
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
    return address in _GLOBAL_UNICAST and not any(address in network for network in _REFUSED_V6)
