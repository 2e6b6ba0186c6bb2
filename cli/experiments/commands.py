"""`animatic experiments`: look at experiments, and steer them."""

from __future__ import annotations

from typing import Any

import click

from cli.client import Client, path_to
from cli.experiments.cells import point_label, read_cells
from cli.experiments.watching import describe_counts
from cli.options import as_json, talks_to_api
from cli.output import print_json, print_table, printable, show_time


@click.group()
def experiments() -> None:
    """List experiments, look at one, and cancel, pause, resume or retry them.

    `animatic sweep` makes them; `animatic sweep --attach EXPERIMENT` watches one and writes its results.
    """


@experiments.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@click.option("--all", "everything", is_flag=True, help="All of them.")
@as_json
@talks_to_api
def list_experiments(client: Client, limit: int, everything: bool, as_json: bool) -> None:
    """List experiments, newest first."""
    found = list(client.pages(path_to("experiments"), {}, None if everything else limit))
    if as_json:
        print_json({"object": "list", "data": found})
        return
    print_table(
        ("ID", "NAME", "STATUS", "CELLS", "MODEL", "CREATED"),
        (
            (one["id"], one["name"], one["status"], describe_counts(one), one["model"], show_time(one["created_at"]))
            for one in found
        ),
    )


@experiments.command()
@click.argument("experiment")
@as_json
@talks_to_api
def show(client: Client, experiment: str, as_json: bool) -> None:
    """Show one experiment with all its cells."""
    found = client.get(path_to("experiments", experiment))
    if as_json:
        cells_path = path_to("experiments", experiment, "cells")
        print_json({**found, "cells": list(client.pages(cells_path, {}, None))})
        return
    cells = read_cells(client, found)
    click.echo(f"{found['id']} {found['status']}: {describe_counts(found)}")
    for name in ("name", "model"):
        click.echo(printable(f"{name}: {found[name]}"))
    for kind in ("grid", "base"):
        for name, value in found[kind].items():
            click.echo(f"{kind} {name}: {', '.join(map(str, value)) if kind == 'grid' else value}")
    for warning in found["warnings"]:
        click.echo(f"warning: {warning}")
    click.echo()
    measures = list(dict.fromkeys(name for cell in cells for name in cell.measures))
    print_table(
        ("CELL", "IMAGE", "VALUES", "STATUS", "JOB", *map(str.upper, measures)),
        (
            (
                cell.index,
                cell.image,
                point_label(cell.values),
                "reused" if cell.reused else cell.status,
                cell.job["id"] if cell.job else "deleted",
                *(f"{cell.measures[name]:.3g}" if name in cell.measures else None for name in measures),
            )
            for cell in cells
        ),
    )


def _steering(verb: str, text: str) -> None:
    @experiments.command(verb, help=text)
    @click.argument("names", nargs=-1, required=True, metavar="EXPERIMENT…")
    @as_json
    @talks_to_api
    def steer(client: Client, names: tuple[str, ...], as_json: bool) -> None:
        changed: list[dict[str, Any]] = [client.post(f"{path_to('experiments', name)}/{verb}") for name in names]
        if as_json:
            print_json({"object": "list", "data": changed})
            return
        for one in changed:
            click.echo(f"{one['id']} {one['status']}: {describe_counts(one)}")


_steering("cancel", "Cancel experiments: cells that wait end at once, running ones within a denoising step.")
_steering("pause", "Pause experiments: no further cell starts; running ones go on.")
_steering("resume", "Let paused experiments go on.")
_steering("retry", "Run the failed cells of experiments again.")
