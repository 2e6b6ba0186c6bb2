"""The HTTP surface: headers of every answer, what browsers of other sites may do, and limits that the server sets."""

from __future__ import annotations

import gzip
import socket
from typing import Any

import pytest
from support import BOOTSTRAP_KEY, Service

PATHS = [
    *("/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/v1/jobs", "/v1/nothing", "/nothing", "/files/x"),
    *("/", "/jobs", "/jobs/job_1", "/experiments", "/sign-in", "/session"),
]


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


def test_scripts_and_styles_are_compressed_and_what_may_hold_a_secret_is_not(client: Any) -> None:
    plain = client.get("/static/job.js")
    accepting = {"Accept-Encoding": "gzip, deflate, br, zstd"}
    compressed = client.get("/static/job.js", headers=accepting)
    assert "Content-Encoding" not in plain.headers
    assert compressed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(compressed.data) == plain.data
    assert plain.headers["Vary"] == compressed.headers["Vary"] == "Accept-Encoding"
    for answer, headers in ((plain, {}), (compressed, accepting)):
        again = client.get("/static/job.js", headers={**headers, "If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")
    stale = client.get("/static/job.js", headers={"If-None-Match": compressed.headers["ETag"]})
    assert stale.data == plain.data
    for path in ("/", "/v1/models", "/openapi.json"):
        assert "Content-Encoding" not in client.get(path, headers=accepting).headers


@pytest.mark.parametrize("name", ["nothing.js", "..", "../app.py", "..%2Fapp.py", "%2e%2e/app.py", "job", ""])
def test_only_the_pages_own_files_are_static(client: Any, name: str) -> None:
    assert client.get(f"/static/{name}").status_code == 404


def test_a_request_that_is_too_long_in_any_way_is_refused_and_the_next_is_served(service: Service) -> None:
    service.start_api(max_body_bytes=20_000, upload_timeout_s=1)
    key = f"Authorization: Bearer {BOOTSTRAP_KEY}"
    deep = b"[" * 4_000
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
        "chunks that are none": (f"POST /v1/keys HTTP/1.1\r\n{key}\r\nTransfer-Encoding: chunked", b"-1\r\n", {400}),
        "a path cut short by a header": ("GET /x/metrics HTTP/1.1\r\nSCRIPT_NAME: /x", b"", {404}),
    }
    for name, (head, body, statuses) in refused.items():
        status, answer = send(service, head, body)
        assert status in statuses, (name, answer[:300])
        assert b"Traceback" not in answer
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as sock:
        sock.sendall(f"POST /v1/keys HTTP/1.1\r\nHost: x\r\n{key}\r\nContent-Length: 2\r\n\r\n{{".encode())
        assert sock.recv(1) == b"", "a body that does not come holds a thread no longer than it may"
    assert service.request("GET", "/v1/jobs").status == 200
    assert "Traceback" not in service.processes[0].log.read_text()


def test_a_path_has_one_spelling_and_nothing_redirects_to_the_host_of_the_request(client: Any) -> None:
    for path in ("/v1//jobs", "/v1/jobs//", "/files//x"):
        answer = client.open(path, headers={"Host": "evil.example"})
        assert answer.status_code == 404, path
        assert "Location" not in answer.headers


@pytest.mark.parametrize(
    "body",
    [
        b"{" + b",".join(b'"f%d":1' % number for number in range(50_000)) + b"}",
        b'{"labels":{' + b",".join(b'"-%d":1' % number for number in range(50_000)) + b"}}",
        b'{"image_url":[' + b"[]," * 50_000 + b"1]}",
        b'{"' + b"f" * 500_000 + b'":1}',
        b"{" + b",".join(b'"f%d":1' % number for number in range(4_000)) + b"}",
    ],
    ids=["fields", "labels", "values", "a long name", "as many errors as may be"],
)
def test_no_answer_is_larger_than_a_request_that_is_all_wrong(client: Any, body: bytes) -> None:
    answer = client.post("/v1/jobs", data=body, content_type="application/json")
    assert answer.status_code in (413, 422)
    assert len(answer.data) < 10_000


def test_a_form_field_of_json_is_limited_like_a_body(client: Any) -> None:
    labels = "{" + ",".join(f'"-{number}":1' for number in range(20_000)) + "}"
    answer = client.post("/v1/jobs", data={"labels": labels}, content_type="multipart/form-data")
    assert (answer.status_code, answer.json["code"]) == (413, "payload_too_large")


def test_no_path_makes_a_line_in_the_log(make_client: Any, caplog: pytest.LogCaptureFixture) -> None:
    client = make_client(database_url="postgresql://nobody@127.0.0.1:1/nothing")
    assert client.get("/v1/jobs/x%0AERROR%20forged%0D").status_code == 503
    assert "forged" in caplog.text
    assert not [line for line in caplog.text.splitlines() if line.startswith("ERROR forged")]


def test_the_server_tells_neither_its_name_nor_its_version(service: Service) -> None:
    service.start_api()
    head = send(service, "GET /healthz HTTP/1.1")[1].partition(b"\r\n\r\n")[0].lower()
    assert not [word for word in (b"werkzeug", b"python", b"flask", b"gunicorn/") if word in head]
