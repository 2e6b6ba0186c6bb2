"""The HTTP surface: headers of every answer, what browsers of other sites may do, and limits that the server sets."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from support import BOOTSTRAP_KEY, Service

PATHS = ["/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/v1/jobs", "/v1/nothing", "/nothing", "/files/x"]


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_carries_the_security_headers(client: Any, path: str) -> None:
    for headers in ({}, {"Authorization": ""}, {"Origin": "https://evil.example"}):
        answer = client.get(path, headers=headers)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe-eval" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST"])
def test_no_other_site_may_read_an_answer(client: Any, path: str, method: str) -> None:
    headers = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    answer = client.open(path, method=method, headers=headers)
    assert not [name for name, _ in answer.headers if name.lower().startswith("access-control-")]


def test_what_belongs_to_a_tenant_is_kept_by_no_cache(client: Any) -> None:
    for path in ("/v1/jobs", "/v1/keys", "/v1/usage", "/v1/webhook-secret", "/v1/jobs/x"):
        assert client.get(path).headers["Cache-Control"] == "no-store"


def send(service: Service, head: str, body: bytes = b"") -> tuple[int, bytes]:
    """Status and whole answer of a request by hand."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as sock:
        sock.sendall(f"{head}\r\nHost: x\r\nConnection: close\r\n\r\n".encode() + body)
        answer = b""
        while part := sock.recv(65_536):
            answer += part
    return int(answer.split(b" ", 2)[1]), answer


def test_a_request_that_is_too_long_in_any_way_is_refused_and_the_next_is_served(service: Service) -> None:
    service.start_api(max_body_bytes=20_000)
    key = f"Authorization: Bearer {BOOTSTRAP_KEY}"
    deep = b"[" * 15_000
    form = b"".join(b'--b\r\nContent-Disposition: form-data; name="f%d"\r\n\r\nx\r\n' % number for number in range(100))
    refused = {
        "a header field": (f"GET /v1/jobs HTTP/1.1\r\n{key}\r\nX-Long: {'a' * 9_000}", b"", {400, 431}),
        "many header fields": ("GET /v1/jobs HTTP/1.1" + "\r\nX-A: b" * 100, b"", {400, 431}),
        "the URL": (f"GET /v1/jobs?model={'a' * 9_000} HTTP/1.1\r\n{key}", b"", {400, 414}),
        "the body": (f"POST /v1/keys HTTP/1.1\r\n{key}\r\nContent-Length: 20001", b" " * 20_001, {413}),
        "nesting": (f"POST /v1/keys HTTP/1.1\r\n{key}\r\nContent-Length: {len(deep)}", deep, {400}),
        "form parts": (
            f"POST /v1/inputs HTTP/1.1\r\n{key}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            f"Content-Length: {len(form) + 7}",
            form + b"--b--\r\n",
            {400, 413},
        ),
        "two lengths": (f"POST /v1/keys HTTP/1.1\r\n{key}\r\nContent-Length: 2\r\nContent-Length: 3", b"{}", {400}),
        "length and chunks": (
            f"POST /v1/keys HTTP/1.1\r\n{key}\r\nContent-Length: 2\r\nTransfer-Encoding: chunked",
            b"0\r\n\r\n",
            {400},
        ),
    }
    for name, (head, body, statuses) in refused.items():
        status, answer = send(service, head, body)
        assert status in statuses, (name, answer[:300])
        assert b"Traceback" not in answer
    assert service.request("GET", "/v1/jobs").status == 200


def test_the_server_tells_neither_its_name_nor_its_version(service: Service) -> None:
    service.start_api()
    head = send(service, "GET /healthz HTTP/1.1")[1].partition(b"\r\n\r\n")[0].lower()
    assert not [word for word in (b"werkzeug", b"python", b"flask", b"gunicorn/") if word in head]
