"""Signing webhooks by the Standard Webhooks specification, and when to try again.

Source: Standard Webhooks 1.0, https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
import secrets as random_source
from collections.abc import Callable, Sequence

from shared.outbound import USER_AGENT

SECRET_PREFIX = "whsec_"  # noqa: S105  # what a secret begins with, not one
#: the specification's range for a key.
SECRET_BYTES = range(24, 65)
RETRY_AFTER_MAX_S = 86_400.0
#: pauses vary by this share either way, so that deliveries which failed together do not come back together.
JITTER = 0.15


def new_secret() -> str:
    """A fresh secret of 32 random bytes."""
    return SECRET_PREFIX + base64.b64encode(random_source.token_bytes(32)).decode()


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The signature `v1,<base64>` of one message with one secret.

    Args:
        timestamp: Unix time, s.

    Raises:
        ValueError: the secret is not `whsec_` and the base64 of 24 to 64 bytes.
    """
    message = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    digest = hmac.digest(_read_secret(secret), message, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def delivery_headers(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """All headers of one try.

    Args:
        secrets: more than one while a secret rotates; each signs.
        timestamp: of this try, Unix time, s.

    Raises:
        ValueError: a secret cannot be read, or there is none.
    """
    if not secrets:
        raise ValueError("a webhook needs at least one secret to be signed with")
    return {
        "content-type": "application/json",
        "user-agent": USER_AGENT,
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(sign(secret, message_id, timestamp, body) for secret in secrets),
    }


def retry_delay_s(
    schedule_s: Sequence[float],
    tries_made: int,
    retry_after_s: float | None = None,
    jitter: Callable[[], float] = random.random,
) -> float | None:
    """The pause before the next try, s; None when the schedule is exhausted.

    Args:
        schedule_s: the pause before each try; the first entry comes before the first try.
        tries_made: tries so far; 0 for a new delivery.
        retry_after_s: what the receiver asked for; honoured as the least pause, up to a day.
        jitter: draws from [0, 1).
    """
    if tries_made >= len(schedule_s):
        return None
    pause = schedule_s[tries_made] * (1 - JITTER + 2 * JITTER * jitter())
    return max(pause, min(retry_after_s or 0.0, RETRY_AFTER_MAX_S))


def _read_secret(secret: str) -> bytes:
    # The value stays out of the messages: it may be right but for one letter.
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError(f"a webhook secret must begin with {SECRET_PREFIX}")
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        raise ValueError(f"a webhook secret must be base64 after {SECRET_PREFIX}") from None
    if len(key) not in SECRET_BYTES:
        raise ValueError(
            f"a webhook secret must have {SECRET_BYTES.start} to {SECRET_BYTES.stop - 1} bytes, got {len(key)}"
        )
    return key
