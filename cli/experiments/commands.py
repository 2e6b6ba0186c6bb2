"""`animatic experiments`: look at experiments, and steer them."""

from __future__ import annotations

from typing import Any

import click

from cli.client import Client, path_to
from cli.experiments.cells import point_label, read_cells
from cli.experiments.watching import describe_counts
from cli.jobs import delete_each
from cli.options import as_json, talks_to_api
from cli.output import print_json, print_table, printable, show_time


class InOrder(click.Group):
    """Lists its commands as they are defined, rather than by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=InOrder)
def experiments() -> None:
    """List experiments, look at one, and pause, resume, cancel, retry or delete them.

    `animatic sweep` makes them; `animatic sweep --attach EXPERIMENT` watches one and writes its results.
    """


@experiments.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most this many.")
@click.option("--all", "everything", is_flag=True, help="All of them, without a limit.")
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
        changed: list[dict[str, Any]] = []
        for name in names:
            one = client.post(path_to("experiments", name, verb))
            changed.append(one)
            if not as_json:
                click.echo(f"{one['id']} {one['status']}: {describe_counts(one)}")
        if as_json:
            print_json({"object": "list", "data": changed})


_steering("pause", "Pause experiments: no further cell starts. Those that run go on.")
_steering("resume", "Let paused experiments go on.")
_steering("cancel", "Cancel experiments. Waiting cells end at once, running ones within a denoising step.")
_steering("retry", "Run the failed cells of experiments again.")


@experiments.command()
@click.argument("names", nargs=-1, required=True, metavar="EXPERIMENT…")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@talks_to_api
def delete(client: Client, names: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Delete finished experiments, with their jobs and videos. In a terminal it asks first."""
    delete_each(client, "experiments", names, yes=yes, as_json=as_json)
