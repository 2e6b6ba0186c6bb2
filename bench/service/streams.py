"""What many idle listeners cost everybody else: time, connections to Postgres, and the time to stop."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from typing import Any

import psycopg

from bench.service.intake import api_endpoint, latencies
from bench.service.site import Site
from cli.engines import free_port


def measure_streams(site: Site, *, streams: int, count: int) -> dict[str, Any]:
    """POST of a photo with and without open streams, at an API of its own, which then gets SIGTERM.

    Args:
        streams: server-sent events of a job that waits.
        count: requests with, and without.
    """
    port = free_port()
    program = site.program("api-streams", "api.serve", env=site.environment(ANIMATIC_API_PORT=str(port)))
    endpoint = api_endpoint(site)
    endpoint.url = f"http://127.0.0.1:{port}"
    with site.running(program, ready=f"{endpoint.url}/readyz") as api, ExitStack() as opened:
        caller = endpoint.caller()

        def post_all() -> dict[str, float]:
            times = []
            for _ in range(count):
                started = time.perf_counter()
                endpoint.post(caller)
                times.append(time.perf_counter() - started)
            return latencies(times)

        job = endpoint.post(caller)["id"]
        without, connections_without = post_all(), _count_connections(site)
        listeners = [opened.enter_context(_open_stream(site, port, job)) for _ in range(streams)]
        beside, connections_beside = post_all(), _count_connections(site)
        caller.close()
        started = time.perf_counter()
        api.stop()
        stopped_s = time.perf_counter() - started
        ended = sum(_is_at_end(listener) for listener in listeners)
    return {
        "streams": streams,
        "POST without them": without,
        "POST beside them": beside,
        "connections to Postgres without": connections_without,
        "connections to Postgres beside": connections_beside,
        "SIGTERM to end s": round(stopped_s, 2),
        "streams that ended in order": ended,
    }


def _open_stream(site: Site, port: int, job: str) -> socket.socket:
    """Returns when its first event is there."""
    listener = socket.create_connection(("127.0.0.1", port), timeout=30)
    request = f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {site.api_key}\r\n\r\n"
    listener.sendall(request.encode())
    seen = b""
    while b"event: job" not in seen:
        part = listener.recv(65_536)
        if not part:
            raise RuntimeError(f"a stream was refused: {seen[:300].decode(errors='replace')}")
        seen += part
    return listener


def _is_at_end(listener: socket.socket) -> bool:
    """Whether it was closed by the server, after whatever it still had to say."""
    try:
        while listener.recv(65_536):
            pass
    except OSError:
        return False
    return True


def _count_connections(site: Site) -> int:
    with psycopg.connect(site.database_url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'animatic-api'"
        ).fetchone()
    return int(row[0]) if row else 0
