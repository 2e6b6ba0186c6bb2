"""How many requests a key may make, and how often an address may try to sign in: counted in Redis for all processes.

While Redis is away each process counts for itself: the limit then holds per process, and no request is refused or
delayed because of the outage, but for the one that notices it.

Source of the header fields: draft-ietf-httpapi-ratelimit-headers-10, "RateLimit header fields for HTTP".
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import redis
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from shared.breaker import Breaker
from shared.settings import Settings

_WINDOW_S = 60
#: of one address; a key cannot be guessed, but a look-up costs something.
_SIGN_INS_PER_MINUTE = 20
_TIMEOUT_S = 0.25
_PAUSE_S = 5.0
_CONNECTIONS = 16


@dataclass(frozen=True)
class Standing:
    """Where a key stands with its limit after a request."""

    is_allowed: bool
    #: requests per window.
    limit: int
    remaining: int
    #: whole seconds until there is more, at least 1.
    reset_s: int

    def headers(self) -> dict[str, str]:
        return {
            "RateLimit-Policy": f'"key";q={self.limit};w={_WINDOW_S}',
            "RateLimit": f'"key";r={self.remaining};t={self.reset_s}',
        }


class RateLimiter:
    """Counts requests by key, and tries to sign in by address. Opens no connection before the first."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        url = settings.redis_url.get_secret_value()
        self._limit = settings.rate_limit_per_minute
        self._connections = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=_TIMEOUT_S,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            retry=None,
        )
        self._shared = SlidingWindowCounterRateLimiter(
            RedisStorage(url, connection_pool=self._connections, key_prefix="animatic:limits")
        )
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._breaker = Breaker(pause_s=_PAUSE_S, clock=clock)

    def hit(self, key_id: UUID, *, cost: int = 1) -> Standing | None:
        """Count a request, or one that is worth several. None: there is no limit."""
        if self._limit == 0:
            return None
        return self._count(self._limit, key_id.hex, cost)

    def hit_sign_in(self, address: str) -> Standing:
        """Count a try to sign in from this address."""
        return self._count(_SIGN_INS_PER_MINUTE, f"sign-in:{address}")

    def _count(self, limit: int, name: str, cost: int = 1) -> Standing:
        if self._breaker.may_try(is_about_to=True):
            try:
                standing = self._hit(self._shared, limit, name, cost)
            except (redis.RedisError, OSError):
                self._breaker.note(is_broken=True)
            else:
                self._breaker.note(is_broken=False)
                return standing
        return self._hit(self._own, limit, name, cost)

    def _hit(self, limiter: SlidingWindowCounterRateLimiter, limit: int, name: str, cost: int) -> Standing:
        item = RateLimitItemPerMinute(limit)
        is_allowed = limiter.hit(item, name, cost=cost)
        stats = limiter.get_window_stats(item, name)
        return Standing(
            is_allowed=is_allowed,
            limit=limit,
            remaining=stats.remaining if is_allowed else 0,
            reset_s=max(1, math.ceil(stats.reset_time - time.time())),
        )

    def close(self) -> None:
        self._connections.disconnect()
