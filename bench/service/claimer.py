"""One worker that only claims: reads the database's URL, says that it is ready, and at the next line begins."""

from __future__ import annotations

import json
import sys
import time

from bench.service.history import claim_next
from shared.database import make_engine, make_sessions
from shared.settings import Settings


def main() -> None:
    seconds = float(sys.argv[1])
    settings = Settings(database_url=sys.stdin.readline().strip())  # type: ignore[arg-type]  # pydantic makes it a secret
    sessions = make_sessions(make_engine(settings, pool_size=1))
    with sessions.begin() as session:
        claim_next(session, settings)
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    count = 0
    while time.perf_counter() - started < seconds:
        with sessions.begin() as session:
            if claim_next(session, settings) is None:
                raise RuntimeError("the queue is empty")
        count += 1
    print(json.dumps(count / (time.perf_counter() - started)))


if __name__ == "__main__":
    main()
