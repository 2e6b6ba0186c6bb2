"""`animatic up`: the whole service on this machine, in the foreground."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from pathlib import Path

import click

from cli.client import Client
from cli.interrupts import Interrupts
from cli.options import as_json, data_dir_option
from cli.output import note, print_json
from cli.place import Place, usual_data_dir
from cli.stack import Stack, StackOptions

_LOOK_S = 0.2


@click.command(
    epilog="Exit code 130 after Ctrl-C, 143 after SIGTERM; a worker that cannot start ends it with the worker's own."
)
@click.option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    envvar="ANIMATIC_API_HOST",
    show_envvar=True,
    help="Address to listen on.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8000,
    show_default=True,
    envvar="ANIMATIC_API_PORT",
    show_envvar=True,
    help="Port to listen on; 0: any free one.",
)
@data_dir_option("Folder for the data of all parts")
@click.option(
    "--model",
    metavar="MODEL",
    default="tiny",
    show_default=True,
    envvar="ANIMATIC_MODEL",
    show_envvar=True,
    help="Model of the workers: a name, a directory in diffusers' format, or NAME=DIRECTORY.",
)
@as_json
def up(host: str, port: int, data_dir: Path, model: str, as_json: bool) -> None:
    """Run the whole service on this machine until Ctrl-C: Postgres, Redis, the API, a maintainer, and a worker
    per visible GPU, or one on the CPU.

    Data stays in the data folder and is there again at the next start. ANIMATIC_DATABASE_URL, ANIMATIC_REDIS_URL
    and ANIMATIC_OBJECT_STORE name parts that run elsewhere; all other settings (docs/settings.md) work as well. To
    listen on an address that other machines reach, it needs an API key in the file that
    ANIMATIC_BOOTSTRAP_API_KEY_FILE names, or one from an earlier start.

    \b
    animatic up
    animatic up --model svd-xt --host 0.0.0.0 --port 8080
    """
    interrupts = Interrupts()
    stack = Stack(StackOptions(host, port, data_dir, model), say=note, is_stopping=lambda: bool(interrupts.received))
    try:
        stack.start()
        if not interrupts.received:
            _announce(stack, as_json)
        while not interrupts.received:
            stack.check()
            time.sleep(_LOOK_S)
        note("stopping")
    finally:
        stack.stop()
    sys.exit(interrupts.exit_code)


def example(data_dir: Path) -> str:
    """A command that finds this service, from a terminal without the variables of this one, too."""
    program = "animatic" if shutil.which("animatic") else sys.argv[0]
    elsewhere = "" if data_dir == usual_data_dir().absolute() else f" --data-dir {shlex.quote(str(data_dir))}"
    return f"{program} submit photo.jpg --wait -o video.mp4{elsewhere}"


def _sign_in_url(place: Place) -> str:
    with Client(place) as client:
        url: str = client.post("/v1/sign-in-links")["url"]
    return url


def _announce(stack: Stack, as_json: bool) -> None:
    place = stack.place
    if as_json:
        print_json({"url": place.url, "api_key": place.api_key, "data_dir": str(stack.folder.path)})
        sys.stdout.flush()
        return
    click.echo(
        f"""
Animatic is running.
  page  {_sign_in_url(place)}   (signs in once, within the hour; later with the key)
  API   {place.url}   (described at {place.url}/docs)
  key   {place.api_key}   (also in {stack.folder.key_path})
  data  {stack.folder.path}   (logs: {stack.folder.logs})

  {example(stack.folder.path)}

For curl, in another terminal:
  export ANIMATIC_URL={place.url} ANIMATIC_API_KEY=$(cat {shlex.quote(str(stack.folder.key_path))})

Ctrl-C stops it."""
    )
    sys.stdout.flush()
