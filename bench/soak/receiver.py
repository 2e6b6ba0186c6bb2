"""A webhook receiver on the loopback interface that often misbehaves, and keeps account of what came."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: how it answers: mostly well; `drop` closes the connection after the message was taken, `hang` outlasts the sender.
_MANNERS = ["ok"] * 16 + ["500", "503", "302", "drop", "hang"]


class FlakyReceiver:
    """Receives webhooks while it is open. Use as a context manager."""

    def __init__(self, seed: int, *, hang_s: float) -> None:
        """
        Args:
            hang_s: longer than the sender waits.
        """
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        #: by `webhook-id`: the SHA-256 of each body that came under it.
        self.bodies: dict[str, set[str]] = {}
        self.requests = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                manner = receiver._take(self.headers.get("webhook-id") or "", body)
                if manner == "hang":
                    time.sleep(hang_s)
                if manner in ("hang", "drop"):
                    self.close_connection = True
                    return
                self.send_response(204 if manner == "ok" else int(manner))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="webhooks")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}/webhook"

    def __enter__(self) -> FlakyReceiver:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _take(self, message_id: str, body: bytes) -> str:
        with self._lock:
            self.requests += 1
            self.bodies.setdefault(message_id, set()).add(hashlib.sha256(body).hexdigest())
            return self._random.choice(_MANNERS)
