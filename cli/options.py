"""Options that several commands have."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cli.place import default_data_dir, find_place

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


def data_dir_option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        default=default_data_dir,
        envvar="ANIMATIC_DATA_DIR",
        show_envvar=True,
        # Said here: click puts a default that is worded into brackets of its own.
        help=f"{what}; default: /var/lib/animatic for root, else ~/.local/share/animatic.",
    )


model_option = click.option(
    "--model", metavar="NAME", help="A name that `animatic models list` shows; default: the first there."
)

labels_option = click.option(
    "--label",
    "labels",
    metavar="NAME=VALUE",
    multiple=True,
    help="A label of yours, to find jobs by (`animatic list --label`); may be given several times.",
)


def webhook_option(when: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("--webhook-url", metavar="URL", help=f"Receives a signed POST when {when}.")


def timeout_option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("--timeout", type=click.FloatRange(min=0), metavar="S", help=what)


def talks_to_api(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say where the API is, and a connected client as its first argument."""

    @functools.wraps(command)
    def run(url: str | None, data_dir: Path, **options: Any) -> None:
        from cli.client import Client
        from cli.environment import warn_of_unknown_variables

        warn_of_unknown_variables()
        with Client(find_place(url, data_dir)) as client:
            command(client, **options)

    url_option = click.option(
        "--url",
        metavar="URL",
        envvar="ANIMATIC_URL",
        show_envvar=True,
        help="Where the service is; default: the one that `animatic up` runs on this machine.",
    )
    folder_option = data_dir_option("Data folder of that `animatic up`")
    decorated: Any = url_option(folder_option(run))
    result: Callable[..., None] = decorated
    return result
