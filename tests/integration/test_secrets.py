"""No secret, key or presigned URL in a log, on a command line or in an error, over the whole life of a job."""

from __future__ import annotations

import re
import socket
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil
import urllib3
from sqlalchemy import text
from support import BOOTSTRAP_KEY, Service, webhook_receiver

from shared.database import Sessions
from shared.settings import Settings

IMAGE_QUERY = "token=a-secret-of-the-callers"


def raw(service: Service, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as sock:
        sock.sendall(request)
        answer = b""
        while part := sock.recv(65_536):
            answer += part
    return answer


def test_a_whole_run_writes_no_secret_anywhere(
    service: Service, settings: Settings, sessions: Sessions, rocket: bytes
) -> None:
    signing_key = "s" * 40
    answers: list[bytes] = []
    commands: set[str] = set()

    def ask(method: str, path: str, **options: Any) -> Any:
        answer = service.request(method, path, **options)
        answers.append(answer.data)
        return answer

    with webhook_receiver() as receiver:
        port = int(receiver.url.rpartition(":")[2].partition("/")[0])
        service.start_all("double", outbound_ports=(port,), url_signing_key=signing_key, log_level="DEBUG")
        made = service.request("POST", "/v1/keys", json={"name": "made"}).json()
        service.request("POST", "/v1/webhook-secret/rotate")
        secret = service.request("GET", "/v1/webhook-secret").json()["secret"]
        job = service.submit(rocket, frames_format="png", webhook_url=f"{receiver.url}?{IMAGE_QUERY}")
        service.await_status(job["id"], "succeeded")
        signed = service.request("GET", f"/v1/jobs/{job['id']}/video", redirect=False).headers["Location"]
        assert urllib3.request("GET", signed).status == 200
        # What goes wrong is where secrets slip out.
        assert urllib3.request("GET", signed.replace("type=", "type=x")).status == 404
        ask("GET", "/v1/jobs", headers={"Authorization": f"Bearer {made['key']}x"})
        ask("POST", "/v1/jobs", json={"image_url": f"http://10.0.0.1/?{IMAGE_QUERY}"})
        ask("POST", "/v1/jobs", json={"image_url": f"http://me:{IMAGE_QUERY}@127.0.0.1/"})
        ask("POST", "/v1/jobs", body=b"{", headers={"Content-Type": "application/json"})
        ask("DELETE", f"/v1/keys/{made['id']}")
        with sessions.begin() as session:
            # A fault of ours: every answer about this job is a 500, and its traceback goes to the log.
            session.execute(text("UPDATE jobs SET params = '{}'"))
        assert ask("GET", f"/v1/jobs/{job['id']}").status == 500
        answers.append(
            raw(
                service,
                b"GET /v1/jobs HTTP/1.1\r\nAuthorization: Bearer " + BOOTSTRAP_KEY.encode() + b"\r\nbad\r\n\r\n",
            )
        )
        for process in service.processes:
            for each in [psutil.Process(process.popen.pid), *process.children()]:
                commands.add(" ".join(each.cmdline()))
        assert service.processes[0].stop() == 0
    passwords = [urlsplit(url.get_secret_value()).password for url in (settings.database_url, settings.redis_url)]
    [signature] = parse_qs(urlsplit(signed).query)["signature"]
    secrets = [BOOTSTRAP_KEY, made["key"], made["key"][8:], secret, secret[6:], signing_key, signature, IMAGE_QUERY]
    secrets += [password for password in passwords if password]
    written = {process.log.name: process.log.read_text() for process in service.processes}
    assert "Traceback" in written["0-api.serve.log"]
    for value in secrets:
        for name, log in written.items():
            assert value not in log, f"{value[:12]}… is in {name}"
        assert not any(value in command for command in commands), value[:12]
        assert not any(value.encode() in answer for answer in answers), value[:12]
    for answer in answers:
        assert not re.search(rb"Traceback|File \"|sqlalchemy|psycopg|site-packages", answer), answer[:300]
