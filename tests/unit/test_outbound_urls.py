"""What is refused, and opened, by the URL alone."""

from __future__ import annotations

import pytest

from shared.errors import DeliveryError, InvalidInputError, StartupError
from shared.outbound import OutboundGuard

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


def never_resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
    raise AssertionError("a lookup where none is needed")


@pytest.fixture(scope="module")
def guard() -> OutboundGuard:
    return OutboundGuard(allow=(), ports=(80, 443), resolve=never_resolve)


@pytest.mark.parametrize("url", HOSTILE_URLS)
def test_a_hostile_url_is_refused_without_asking_the_dns(url: str, guard: OutboundGuard) -> None:
    with pytest.raises(InvalidInputError, match=r"^webhook_url .*, got '") as refusal:
        guard.check_url(url, field="webhook_url")
    assert refusal.value.field == "webhook_url"
    with pytest.raises(InvalidInputError):
        guard.fetch(url, timeout_s=1, max_bytes=10)
    with pytest.raises(DeliveryError) as failure:
        guard.post(url, body=b"", headers={}, timeout_s=1)
    assert failure.value.permanent


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "https://example.com/a.png?token=1#top",
        "HTTPS://EXAMPLE.COM:443/",
        "http://example.com./",
        "http://example.com:80/",
        "https://bücher.example.com/ü",
        "https://xn--bcher-kva.de/",
        "https://a_b.example.com/",
        "http://8.8.8.8/",
        "http://[2606:4700:4700::1111]/",
        "http://[64:ff9b::8.8.8.8]:443/",
        "http://1.example.com/",
        "http://0x7f.example.com/?@127.0.0.1",
    ],
)
def test_a_public_url_passes(url: str, guard: OutboundGuard) -> None:
    guard.check_url(url, field="image_url")


def test_messages_hide_what_may_be_secret_in_a_url(guard: OutboundGuard) -> None:
    for url in ("http://me:hunter2@example.com/?hunter2", "http://example.com:9/?hunter2", "http://[?hunter2"):
        with pytest.raises(InvalidInputError) as refusal:
            guard.check_url(url, field="image_url")
        assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    ("allow", "url", "is_open"),
    [
        ("127.0.0.1", "http://127.0.0.1/", True),
        ("127.0.0.1", "http://127.0.0.1:9000/", False),
        ("127.0.0.1:9000", "http://127.0.0.1:9000/", True),
        ("127.0.0.1:9000", "http://127.0.0.1/", False),
        ("127.0.0.1", "http://127.0.0.2/", False),
        ("127.0.0.1", "http://2130706433/", False),
        ("127.0.0.1", "http://[::ffff:127.0.0.1]/", False),
        ("::1", "http://[::1]/", True),
        ("[::1]", "http://[0:0:0:0:0:0:0:1]/", True),
        ("[::1]:9000", "http://[::1]:9000/", True),
        ("[::1]:9000", "http://[::1]/", False),
        ("Minio", "http://minio/", True),
        ("minio:9000", "https://MINIO.:9000/", True),
        ("minio:9000", "http://minio:9001/", False),
        ("minio", "http://user@minio/", False),
        ("example.com:80", "http://example.com/", True),
        ("example.com:8080", "http://example.com/", True),
    ],
)
def test_the_allow_list_opens_the_named_host_and_port_only(allow: str, url: str, is_open: bool) -> None:
    guard = OutboundGuard(allow=[allow], ports=(80, 443), resolve=never_resolve)
    if is_open:
        guard.check_url(url, field="image_url")
    else:
        with pytest.raises(InvalidInputError):
            guard.check_url(url, field="image_url")


@pytest.mark.parametrize(
    "entry",
    ["", "http://a", "a/b", "a/", "*.a.com", "a:", "a:b", "a:99999", "u@a", "10.0.0.0/8", "0x7f.1", "a b", "[::1"],
)
def test_an_allow_list_entry_that_is_no_host_stops_the_start(entry: str) -> None:
    with pytest.raises(StartupError, match="ANIMATIC_OUTBOUND_ALLOW"):
        OutboundGuard(allow=[entry], ports=(80,))
