"""One worker that only claims: at each line `SECONDS DATABASE_URL` for that long, and says how many it got."""

from __future__ import annotations

import sys
import time

from bench.service.history import claim_next
from shared.database import Sessions, make_engine, make_sessions
from shared.settings import Settings


def count_claims(sessions: Sessions, settings: Settings, seconds: float) -> int:
    """At least one."""
    count = 0
    started = time.perf_counter()
    while count == 0 or time.perf_counter() - started < seconds:
        with sessions.begin() as session:
            if claim_next(session, settings) is None:
                raise RuntimeError("the queue is empty")
        count += 1
    return count


def main() -> None:
    opened: dict[str, tuple[Sessions, Settings]] = {}
    for line in sys.stdin:
        seconds, url = line.split()
        if url not in opened:
            settings = Settings(database_url=url)  # type: ignore[arg-type]  # pydantic makes it a secret
            opened[url] = make_sessions(make_engine(settings, pool_size=1)), settings
        print(count_claims(*opened[url], float(seconds)), flush=True)


if __name__ == "__main__":
    main()
