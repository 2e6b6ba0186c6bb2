"""Kombu's Redis transport, for messages that may be lost but a worker that must go on consuming."""

from __future__ import annotations

from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis, virtual


class _QoS(redis.QoS):
    """Forgets a message whose acknowledgement fails.

    Kombu 5.7 keeps it among the unacknowledged ones, and Celery only logs the error. With a prefetch of one that is all
    that a worker may hold: if Redis went away for a moment just then, and was back before anything else asked for it,
    the worker waited for ever. Without it the next poll connects again, or fails and makes Celery do so. Redis, if it
    still has the message, hands it out again some day: one ring too many, which is harmless.
    """

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        except Exception:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]
            raise

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        try:
            super().reject(delivery_tag, requeue=requeue)  # type: ignore[no-untyped-call]
        except Exception:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]
            raise


class _Channel(redis.Channel):
    QoS = _QoS


class Transport(redis.Transport):
    Channel = _Channel


def register() -> None:
    """Let `redis://` and `rediss://` mean this transport, in this process."""
    aliases: dict[str, Any] = TRANSPORT_ALIASES
    aliases.update(dict.fromkeys(("redis", "rediss"), f"{__name__}:Transport"))
