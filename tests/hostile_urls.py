"""URLs that must lead nowhere: written by hand, and made from every disallowed address in every spelling."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

#: by hand; each is refused without asking the DNS.
HOSTILE_URLS = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://127.0.1/",
    "http://127.255.255.254/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0x7f.1/",
    "http://017700000001/",
    "http://0177.0.0.1/",
    "http://0177.1/",
    "http://127.0.0.1./",
    "http://127.0.0.1../",
    "http://127.0.0.01/",
    "http://0/",
    "http://0.0.0.0/",
    "http://0x/",
    "http://00/",
    "http://10.0.0.1/",
    "http://10.1/",
    "http://167772161/",
    "http://172.16.0.1/",
    "http://192.168.0.1/",
    "http://192.168.257/",
    "http://169.254.169.254/latest",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    "http://169.254.43518/",
    "http://168.63.129.16/",
    "http://100.100.100.200/",
    "http://100.64.0.1/",
    "http://192.0.0.192/",
    "http://198.18.0.1/",
    "http://203.0.113.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://256.256.256.256/",
    "http://1.2.3.4.5/",
    "http://999999999999/",
    "http://[::]/",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::127.0.0.1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[0:0:0:0:0:ffff:a9fe:a9fe]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b::169.254.169.254]/",
    "http://[64:ff9b:1::10.0.0.1]/",
    "http://[2002:7f00:1::]/",
    "http://[2002:a9fe:a9fe::]/",
    "http://[2001:0:7f00:1::]/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::254]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fe80::1%eth0]/",
    "http://[2606:4700::1%251]/",
    "http://[ff02::1]/",
    "http://[2001:db8::1]/",
    "http://[::1",
    "http://[::1]x/",
    "http://[v1.a]/",
    "http://::1/",
    "http://localhost/",
    "http://LOCALHOST/",
    "http://localhost./",
    "http://a.localhost/",
    "http://printer.local/",
    "http://metadata.google.internal/",
    "http://router.home.arpa/",
    "http://postgres/",
    "http://redis:80/",
    "http://a.b.onion/",
    "http://user@example.com/",
    "http://user:pass@example.com/",
    "http://@example.com/",
    "http://example.com@127.0.0.1/",
    "http://127.0.0.1@example.com/",
    "http://a:b@c@example.com/",
    "http://%31%32%37.0.0.1/",
    "http://127.0.0.1%00.example.com/",
    "http://example%2ecom/",
    "http://127.0.0.1%23@example.com/",
    "http://127。0。0.1/",
    "http://１２７.0.0.1/",
    "http://①②⑦.0.0.1/",
    "http://ⓛocalhost.com/",
    "http://١٢٧.0.0.1/",
    "http://exa\xadmple.com/",
    "http://-a.com/",
    "http://a-.com/",
    "http://.com/",
    "http://a..com/",
    "http://exam_ple!.com/",
    "http://example.com:22/",
    "http://example.com:6379/",
    "http://example.com:0/",
    "http://example.com:65536/",
    "http://example.com:-1/",
    "http://example.com:+80/",
    "http://example.com:٨٠/",
    "http://example.com:80:80/",
    "http://example.com:8080/",
    "https://example.com:5432/",
    "http://",
    "http:///",
    "http:///example.com",
    "http:/example.com",
    "http:example.com",
    "http://:80/",
    "http://?",
    "http://#",
    "//example.com/",
    "example.com",
    "/etc/passwd",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "dict://example.com:11211/",
    "ldap://example.com/",
    "data:image/png;base64,AA==",
    "javascript:alert(1)",
    "unix:///var/run/docker.sock",
    "http+unix://socket/",
    "jar:http://example.com!/",
    "s3://bucket/key",
    "httpx://example.com/",
    "",
    " ",
    " http://example.com/",
    "http://example.com/ ",
    "http://exa mple.com/",
    "http://example.com/a b",
    "http://example.com\\@127.0.0.1/",
    "http:\\\\127.0.0.1\\",
    "http://example.com/\r\nHost: internal",
    "http://example.com\t/",
    "ht\ntp://example.com/",
    "http://example.com/\x00",
    "http://example.com/\x7f",
    "http://\xa0example.com/",
    "http://aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.com/",
    "http://" + "a" * 64 + ".com/",
    "http://" + "a." * 127 + "com/",
    "http://example.com/" + "a" * 2048,
]

#: what an attacker would like to reach by an IPv4 address.
PRIZES = ["127.0.0.1", "169.254.169.254", "10.0.0.1", "192.168.1.1", "172.16.0.1", "100.100.100.200", "168.63.129.16"]

METADATA_PATHS = [
    "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
    "http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/token",
    "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01",
    "http://169.254.170.2/v2/credentials/x",
    "http://100.100.100.200/latest/meta-data/ram/security-credentials/",
    "http://192.0.0.192/opc/v2/instance/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://[fd20:ce::254]/computeMetadata/v1/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://metadata/computeMetadata/v1/",
    "http://instance-data.ec2.internal/latest/",
    "http://kubernetes.default.svc.cluster.local/api",
    "http://host.docker.internal/",
    "http://localhost.localdomain.localhost/",
]


def spellings(address: str) -> Iterator[str]:
    """The same IPv4 address as inet_aton(3), IPv6 and browsers would take it."""
    value = int(IPv4Address(address))
    a, b, c, d = IPv4Address(address).packed
    yield address
    yield f"{address}."
    yield str(value)
    yield hex(value)
    yield f"0{value:o}"
    yield f"{a}.{b}.{c * 256 + d}"
    yield f"{a}.{(b * 256 + c) * 256 + d}"
    yield f"0x{a:02x}.0x{b:02x}.0x{c:02x}.0x{d:02x}"
    yield f"0{a:o}.0{b:o}.0{c:o}.0{d:o}"
    yield f"{a:04d}.{b}.{c}.{d}"
    yield f"0x{a:x}.{b}.0{c:o}.{d}"
    yield f"{a + 256}.{b}.{c}.{d}"
    yield "".join(chr(0xFF10 + int(digit)) if digit.isdigit() else digit for digit in address)
    yield address.replace(".", "\u3002")
    yield "%" + "%".join(f"{ord(character):02x}" for character in address)
    yield f"[::{address}]"
    yield f"[::ffff:{address}]"
    yield f"[::ffff:{value >> 16:x}:{value & 0xFFFF:x}]"
    yield f"[::ffff:0:{address}]"
    yield f"[64:ff9b::{address}]"
    yield f"[64:ff9b:1::{address}]"
    yield f"[2002:{value >> 16:x}:{value & 0xFFFF:x}::1]"
    yield f"[2001:0:{value >> 16:x}:{value & 0xFFFF:x}::]"
    yield f"[::ffff:{address}%25lo]"
    yield f"user@{address}"
    yield f"example.com:80@{address}"
    yield f"{address}#@example.com"
    yield f"{address}\\@example.com"


def all_hostile() -> list[str]:
    made = [f"http://{host}/" for prize in PRIZES for host in spellings(prize)]
    return list(dict.fromkeys([*HOSTILE_URLS, *METADATA_PATHS, *made]))
