"""The fault proxy does what the campaign relies on."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
import urllib3
from fault_proxy import Fault, FaultProxy, HttpFaultProxy, Kind
from support import Engines


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[HttpFaultProxy]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with HttpFaultProxy(f"http://127.0.0.1:{server.server_port}") as proxy:
        yield proxy
    server.shutdown()
    server.server_close()
    thread.join()


def put(proxy: HttpFaultProxy, timeout_s: float = 5) -> tuple[int, bytes]:
    with urllib3.PoolManager() as pool:
        answer = pool.request("PUT", proxy.url("http://x/y"), body=b"body", retries=False, timeout=timeout_s)
        return answer.status, answer.data


def test_requests_pass_are_answered_here_damaged_late_or_not_at_all(echo: HttpFaultProxy) -> None:
    assert put(echo) == (200, b"body")
    echo.set(Fault(Kind.STATUS, status=503, methods=["PUT"]))
    assert put(echo) == (503, b"")
    echo.set(Fault(Kind.STATUS, status=503, methods=["GET"]))
    assert put(echo) == (200, b"body")
    for kind in (Kind.DAMAGE_REQUEST, Kind.DAMAGE_ANSWER):
        echo.set(Fault(kind))
        status, body = put(echo)
        assert (status, len(body), body == b"body") == (200, 4, False)
    echo.set(Fault(Kind.DELAY, seconds=0.3))
    started = time.monotonic()
    assert put(echo) == (200, b"body")
    assert time.monotonic() - started >= 0.3
    for kind in (Kind.REFUSE, Kind.RESET, Kind.CUT_REQUEST, Kind.CUT_ANSWER, Kind.FREEZE):
        echo.set(Fault(kind, after_bytes=2))
        with pytest.raises(urllib3.exceptions.HTTPError):
            put(echo, timeout_s=0.5)
    assert echo.strikes == 1
    echo.heal()
    assert put(echo) == (200, b"body")


def test_bytes_freeze_and_flow_on_are_cut_and_reset(engines: Engines) -> None:
    with FaultProxy(engines.admin_url) as proxy:
        with psycopg.connect(proxy.url(engines.admin_url), autocommit=True) as connection:
            proxy.set(Fault(Kind.FREEZE))
            started = time.monotonic()
            threading.Timer(0.3, proxy.heal).start()
            assert connection.execute("SELECT 1").fetchone() == (1,)
            assert time.monotonic() - started >= 0.3
            proxy.set(Fault(Kind.CUT_ANSWER, after_bytes=3))
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 2")
        proxy.set(Fault(Kind.REFUSE))
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", proxy.port)):
            pass


def test_a_statement_whose_answer_is_lost_has_been_done(engines: Engines) -> None:
    with FaultProxy(engines.admin_url) as proxy, psycopg.connect(engines.admin_url, autocommit=True) as direct:
        direct.execute("CREATE TABLE IF NOT EXISTS lost_answer (n int)")
        direct.execute("TRUNCATE lost_answer")
        proxy.set(Fault(Kind.LOSE_ANSWER, statement=b"COMMIT", preceded_by=b"lost_answer"))
        with psycopg.connect(proxy.url(engines.admin_url)) as connection:
            connection.execute("SELECT 1")
            connection.commit()  # not the one that is meant
            connection.execute("INSERT INTO lost_answer VALUES (1)")
            with pytest.raises(psycopg.OperationalError):
                connection.commit()
        assert proxy.strikes == 1
        assert direct.execute("SELECT n FROM lost_answer").fetchall() == [(1,)]
        direct.execute("DROP TABLE lost_answer")
