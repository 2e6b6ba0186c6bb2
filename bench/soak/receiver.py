"""A webhook receiver on the loopback interface that often misbehaves, and keeps account of what came."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from http.server import BaseHTTPRequestHandler

from cli.loopback import LoopbackServer

#: how it answers: mostly well; `drop` closes the connection after the message was taken, `hang` outlasts the sender.
_MANNERS = ["ok"] * 16 + ["500", "503", "302", "drop", "hang"]


class FlakyReceiver(LoopbackServer):
    """Receives webhooks while it is open. Use as a context manager."""

    def __init__(self, seed: int, *, hang_s: float) -> None:
        """
        Args:
            hang_s: longer than the sender waits.
        """
        super().__init__()
        self._hang_s = hang_s
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        #: by `webhook-id`: the SHA-256 of each body that came under it.
        self.bodies: dict[str, set[str]] = {}
        self.requests = 0

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        manner = self._take(request.headers.get("webhook-id") or "", body)
        if manner == "hang":
            time.sleep(self._hang_s)
        if manner in ("hang", "drop"):
            request.close_connection = True
            return
        request.send_response(204 if manner == "ok" else int(manner))
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _take(self, message_id: str, body: bytes) -> str:
        with self._lock:
            self.requests += 1
            self.bodies.setdefault(message_id, set()).add(hashlib.sha256(body).hexdigest())
            return self._random.choice(_MANNERS)
