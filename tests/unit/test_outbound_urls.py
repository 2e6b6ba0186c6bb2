"""What is refused, and opened, by the URL alone."""

from __future__ import annotations

import pytest
from hostile_urls import HOSTILE_URLS

from shared.errors import DeliveryError, InvalidInputError, StartupError
from shared.outbound import OutboundGuard


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
