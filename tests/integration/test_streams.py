"""Many idle listeners at once: they cost no connection to Postgres, starve nobody, and end with the server."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import psycopg
from support import BOOTSTRAP_KEY, Service, eventually

from shared.settings import Settings

CLIENTS = 200


def open_stream(service: Service, path: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", service.port), timeout=20)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {BOOTSTRAP_KEY}\r\n\r\n".encode())
    return client


def test_two_hundred_idle_streams_hold_no_connections_and_end_at_once(
    service: Service, rocket: bytes, settings: Settings
) -> None:
    api = service.start_api()
    job = service.submit(rocket)
    with ExitStack() as stack:
        streams = [stack.enter_context(open_stream(service, f"/v1/jobs/{job['id']}/events")) for _ in range(CLIENTS)]
        for stream in streams:
            text = b""
            while b"event: job" not in text:
                received = stream.recv(65_536)
                assert received, text
                text += received
        polls = [stack.enter_context(open_stream(service, f"/v1/jobs/{job['id']}?wait=60")) for _ in range(10)]

        started = time.monotonic()
        service.submit(rocket)
        assert time.monotonic() - started < 2
        with psycopg.connect(settings.database_url.get_secret_value()) as connection:

            def few() -> bool:
                (count,) = connection.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                ).fetchone()
                connection.rollback()
                return count <= 20

            assert few()

        started = time.monotonic()
        assert api.stop() == 0
        assert time.monotonic() - started < 5
        for stream in streams:
            eventually(lambda stream=stream: stream.recv(65_536) == b"", every_s=0)
        assert all(b"200 OK" in poll.recv(65_536) for poll in polls)
