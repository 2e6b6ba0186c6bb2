"""What commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from cli.failure import CommandError
from shared.exit_codes import ExitCode

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

Job = dict[str, Any]


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def note(message: str) -> None:
    """A remark for people."""
    click.echo(message, err=True)


def printable(text: str) -> str:
    """With control characters shown rather than obeyed: names are other people's, and this is a terminal."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns as wide as their widest cell; whole values, so that they can be copied."""
    cells = [["-" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    if not cells:
        note("there are none")
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    for line in [list(headings), *cells]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def show_time(text: str | None) -> str | None:
    """An instant of the API in local time."""
    return None if text is None else f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}"


def show_size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def describe_job(job: Job) -> str | None:
    """What tells it apart: `rocket.jpg`, or of a cell `rocket.jpg · motion_bucket_id 180`."""
    values = ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in (job["grid_values"] or {}).items()
    )
    return " · ".join(part for part in (job["image_name"], values) if part) or None


def describe_stand(job: Job) -> str:
    """Where a job stands, in a few words: `denoise 3/10`."""
    progress = job.get("progress")
    if job["status"] == "queued":
        position = job.get("queue_position")
        return f"queued, {position} before it" if position else "queued"
    if job["status"] == "running" and progress:
        steps = progress["phase"] == "denoise" and progress["total_steps"]
        return f"denoise {progress['step']}/{progress['total_steps']}" if steps else str(progress["phase"])
    return str(job["status"])


def standard_error() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def progress_bar(console: Console, *, of_bytes: bool = False) -> Progress:
    """A bar for a terminal; shows nothing elsewhere."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    amount = DownloadColumn() if of_bytes else TaskProgressColumn()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        amount,
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


#: of the whole: how often a log that is no terminal gets a line.
_NOTE_EVERY = 0.1


def show_progress(states: Iterator[Job]) -> Job:
    """Follow a job to its end with a bar in a terminal, or a line per change elsewhere.

    Returns:
        Its last state.
    """
    console = standard_error()
    job: Job | None = None
    stand, noted = "", 0.0
    with progress_bar(console) as progress:
        task = progress.add_task("waiting", total=1.0)
        for job in states:
            done = 1.0 if job["status"] == "succeeded" else (job.get("progress") or {}).get("fraction", 0.0)
            progress.update(task, completed=done, description=describe_stand(job))
            phase = describe_stand(job).partition(" ")[0]
            if not console.is_terminal and (phase != stand or done >= noted + _NOTE_EVERY):
                stand, noted = phase, done
                note(f"{job['id']}: {describe_stand(job)}")
    if job is None:
        raise CommandError("the job's stream ended before it began", ExitCode.UNAVAILABLE)
    return job


def require_success(job: Job) -> None:
    """
    Raises:
        CommandError: the job failed or was canceled.
    """
    if job["status"] == "succeeded":
        return
    error = job.get("error") or {}
    reason = f": {error['message']} ({error['code']})" if error else ""
    raise CommandError(f"{job['id']} {_PAST.get(job['status'], job['status'])}{reason}", ExitCode.JOB_FAILED)


_PAST = {"failed": "failed", "canceled": "was canceled", "queued": "is still queued", "running": "is still running"}


def is_interactive() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()
