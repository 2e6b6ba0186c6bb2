"""The job of the other queues: it only writes down when it began and ended."""

from __future__ import annotations

import os
import time
from pathlib import Path

#: the file to write to; one for each queue.
VARIABLE = "BENCH_STAMPS"


def stamp(job: str) -> None:
    """Append one line to the file: the job, and its begin and end as Unix times."""
    began = time.time()
    line = f"{job} {began:.6f} {time.time():.6f}\n"
    handle = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, line.encode())
    os.close(handle)


def read_stamps(path: Path) -> dict[str, tuple[float, float]]:
    """Begin and end of each job that has ended."""
    if not path.exists():
        return {}
    rows = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {job: (float(began), float(ended)) for job, began, ended in rows}
