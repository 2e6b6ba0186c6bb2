"""A webhook receiver on the loopback interface that checks signatures.

Source: Standard Webhooks 1.0, https://www.standardwebhooks.com: HMAC-SHA256 over `id.timestamp.body`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import queue
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cli.failure import CommandError
from shared.exit_codes import ExitCode

_BODY_BYTES_MAX = 2**20
_AGE_MAX_S = 300


@dataclass(frozen=True)
class Message:
    """One webhook as it came."""

    id: str
    timestamp: str
    signatures: str
    body: bytes

    def verifies(self, secret: str) -> bool:
        """Whether it was signed with this secret (`whsec_…`) not long ago."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = f"{self.id}.{self.timestamp}.".encode() + self.body
        expected = "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
        is_fresh = self.timestamp.isdigit() and abs(time.time() - int(self.timestamp)) < _AGE_MAX_S
        return is_fresh and any(hmac.compare_digest(expected, given) for given in self.signatures.split())


class WebhookReceiver:
    """Receives webhooks while it is open. Use as a context manager."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        messages = self._messages

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = min(int(self.headers.get("Content-Length") or 0), _BODY_BYTES_MAX)
                messages.put(
                    Message(
                        id=self.headers.get("webhook-id") or "",
                        timestamp=self.headers.get("webhook-timestamp") or "",
                        signatures=self.headers.get("webhook-signature") or "",
                        body=self.rfile.read(length),
                    )
                )
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="webhooks", daemon=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}/webhook"

    def __enter__(self) -> WebhookReceiver:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def expect(self, job_id: str, secret: str, *, limit_s: float) -> None:
        """Wait for the message that the job has succeeded.

        Raises:
            CommandError: none came, or one does not verify.
        """
        deadline = time.monotonic() + limit_s
        while True:
            try:
                message = self._messages.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise CommandError(f"no webhook for {job_id} came in {limit_s:g} s", ExitCode.JOB_FAILED) from None
            if not message.verifies(secret):
                raise CommandError(f"the webhook {message.id} does not verify", ExitCode.JOB_FAILED)
            body = json.loads(message.body)
            if body["type"] == "job.succeeded" and body["data"]["id"] == job_id:
                return
