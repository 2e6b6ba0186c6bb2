"""A webhook receiver on the loopback interface that checks signatures.

Source: Standard Webhooks 1.0, https://www.standardwebhooks.com: HMAC-SHA256 over `id.timestamp.body`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import queue
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

from cli.failure import CommandError
from cli.loopback import LoopbackServer
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


class WebhookReceiver(LoopbackServer):
    """Receives webhooks while it is open. Use as a context manager."""

    def __init__(self) -> None:
        super().__init__()
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        length = min(int(request.headers.get("Content-Length") or 0), _BODY_BYTES_MAX)
        self._messages.put(
            Message(
                id=request.headers.get("webhook-id") or "",
                timestamp=request.headers.get("webhook-timestamp") or "",
                signatures=request.headers.get("webhook-signature") or "",
                body=request.rfile.read(length),
            )
        )
        request.send_response(204)
        request.end_headers()

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
