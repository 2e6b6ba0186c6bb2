"""`animatic models`: what the service offers, and fetching a model's files to this machine."""

from __future__ import annotations

import click

from cli.client import Client, path_to
from cli.options import as_json, talks_to_api
from cli.output import print_json, print_table
from cli.servers import run_module


@click.group()
def models() -> None:
    """List models, and fetch their files."""


@models.command("list")
@as_json
@talks_to_api
def list_models(client: Client, as_json: bool) -> None:
    """List the models, and how many workers serve each.

    Those that the service accepts; the first is the default.
    """
    found = client.get(path_to("models"))["data"]
    if as_json:
        print_json({"object": "list", "data": found})
        return
    print_table(
        ("NAME", "SIZE", "FRAMES", "WORKERS", "QUEUED", "TITLE"),
        (
            (
                model["id"],
                f"{model['defaults']['width']}×{model['defaults']['height']}",
                model["defaults"]["num_frames"],
                model["workers"],
                model["queued"],
                model["title"],
            )
            for model in found
        ),
    )


@models.command()
@click.argument("name")
def pull(name: str) -> None:
    """Fetch the files of a model to this machine.

    NAME is svd, svd-xt or svd-xt-1.1; workers on this machine can load it then. The files go to Hugging Face's cache
    (HF_HOME says where). For svd-xt-1.1 accept its terms there, and set ANIMATIC_HF_TOKEN.

    \b
    animatic models pull svd-xt
    """
    run_module("worker.models", "pull", name)
