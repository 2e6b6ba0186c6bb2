"""A stage's log: lines for people on stderr, and its curves as lines of JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from training.errors import reading, replacing, writing


class StageLog:
    """The log of one stage; only one of several processes has an active one."""

    def __init__(self, path: Path, stage: str, active: bool = True) -> None:
        self._path = path
        self._stage = stage
        self._active = active

    def say(self, text: str) -> None:
        """Tell people."""
        if self._active:
            sys.stderr.write(f"{self._stage}: {text}\n")
            sys.stderr.flush()

    def write(self, record: dict[str, Any]) -> None:
        """Add a line; raises TrainingError if the disk does not take it."""
        if self._active:
            with writing(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")

    def drop_beyond(self, step: int) -> None:
        """Forget what comes again when the stage goes on from this step: later steps, and the measures of its end."""
        if self._active and self._path.exists():
            kept = [record for record in read_log(self._path) if record["step"] <= step and "measures" not in record]
            _write_lines(self._path, kept)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a stage's log, without the last if it was cut short by a kill.

    Raises:
        TrainingError: another line is damaged.
    """
    with reading(path):
        lines = path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]


def join_logs(logs: dict[str, Path], target: Path) -> None:
    """Write the logs of several stages, those that there are, as one whose lines begin with the stage.

    Args:
        logs: path of each log by stage, in the order of the file.
        target: of the file.
    """
    _write_lines(
        target,
        [{"stage": stage, **record} for stage, path in logs.items() if path.exists() for record in read_log(path)],
    )


def _write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    with replacing(path) as partial:
        partial.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
