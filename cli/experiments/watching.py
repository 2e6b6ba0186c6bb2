"""Watching an experiment until it is finished: a live table in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from cli.client import Client
from cli.experiments.cells import Cell, Experiment, grid_points, point_label, read_cells, read_experiment
from cli.failure import CommandError
from cli.output import note, printable, standard_error
from shared.exit_codes import ExitCode

if TYPE_CHECKING:
    from rich.console import RenderableType

_LOOK_S = 1.0
#: more cells than this are shown as counts: each look would be many requests.
_CELLS_MAX = 100
#: in a table that fits, a column takes about this many characters.
_COLUMN_WIDTH = 10
#: of the whole: how often a log that is no terminal gets a line.
_NOTE_EVERY = 0.1


def watch_experiment(client: Client, experiment_id: str, *, timeout_s: float | None = None) -> Experiment:
    """Show how it goes until all cells have ended.

    Returns:
        Its last state.

    Raises:
        CommandError: the time is over; the experiment goes on.
        ApiError: there is no such experiment, or the key is refused.
        ConnectionFailedError: the service was away for too long.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    console = standard_error()
    noted = -1.0
    with ExitStack() as stack:
        live = None
        if console.is_terminal:
            from rich.live import Live

            live = stack.enter_context(Live(console=console, transient=True, auto_refresh=False))
        while True:
            experiment = read_experiment(client, experiment_id)
            finished = experiment["status"] == "finished"
            if live is not None:
                few = experiment["counts"]["total"] <= _CELLS_MAX
                cells = read_cells(client, experiment) if few else []
                live.update(draw(experiment, cells, console.width), refresh=True)
            elif finished or experiment["progress"] >= noted + _NOTE_EVERY:
                noted = experiment["progress"]
                note(f"{experiment_id}: {describe_counts(experiment)}")
            if finished:
                return experiment
            if deadline is not None and time.monotonic() > deadline:
                raise CommandError(
                    f"{experiment_id} has not finished within {timeout_s:g} s (--timeout); it goes on",
                    ExitCode.TIMED_OUT,
                )
            time.sleep(_LOOK_S)


def describe_counts(experiment: Experiment) -> str:
    """`3 of 20 succeeded, 1 running, 16 queued; about 40 s left`."""
    counts = experiment["counts"]
    parts = [f"{counts['succeeded']} of {counts['total']} succeeded"]
    parts += [f"{counts[name]} {name}" for name in ("failed", "canceled", "running", "queued") if counts[name]]
    text = ", ".join(parts)
    if experiment["status"] == "paused":
        return f"{text}; paused"
    return text if experiment["eta_s"] is None or not experiment["eta_s"] else f"{text}; {_about(experiment['eta_s'])}"


def draw(experiment: Experiment, cells: list[Cell], width: int) -> RenderableType:
    """Images as rows, values as columns; the counts alone where these do not fit.

    Args:
        width: of the terminal, characters.
    """
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble((printable(experiment["name"]), "bold"), "  ", describe_counts(experiment))
    bar = Table.grid()  # by itself a bar does not end its line
    bar.add_row(ProgressBar(total=1.0, completed=experiment["progress"], width=width // 2, complete_style="green"))
    parts: list[RenderableType] = [head, bar]
    points = grid_points(cells)
    if cells and (len(points) + 2) * _COLUMN_WIDTH <= max(width, 80):
        table = Table(title=" · ".join(points[0]), title_justify="left", box=None, header_style="bold")
        table.add_column("")
        for point in points:
            table.add_column(point_label(point), justify="right")
        for start in range(0, len(cells), len(points)):
            row = cells[start : start + len(points)]
            # Text: a name may look like markup.
            table.add_row(Text(printable(row[0].image)), *(_stand(cell) for cell in row))
        parts.append(table)
    return Group(*parts)


def _stand(cell: Cell) -> str:
    match cell.status:
        case "running":
            progress = (cell.job or {}).get("progress") or {}
            return f"[yellow]{progress.get('fraction', 0.0):.0%}[/]"
        case "succeeded":
            took_s = cell.seconds("started_at", "finished_at")
            return "[green]reused[/]" if cell.reused or took_s is None else f"[green]{took_s:.1f} s[/]"
        case "failed":
            return "[red]failed[/]"
        case "canceled":
            return "[dim]canceled[/]"
    return "[dim]queued[/]"


def _about(seconds: float) -> str:
    return f"about {seconds:.0f} s left" if seconds < 120 else f"about {seconds / 60:.0f} min left"
