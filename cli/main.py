"""The `animatic` command. Each subcommand's module is imported only when it runs, so that `--help` is quick."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from shared.errors import AnimaticError, StartupError
from shared.exit_codes import ExitCode

#: heading → name → where the command is, and its line in `--help`.
_SECTIONS = {
    "On this machine": {
        "demo": ("cli.demo:demo", "Make a video of a photo with a service that lives only for it."),
        "up": ("cli.up:up", "Run the whole service until Ctrl-C."),
    },
    "Jobs": {
        "submit": ("cli.submit:submit", "Submit an image to become a video."),
        "watch": ("cli.jobs:watch", "Show a job's progress until it ends."),
        "list": ("cli.jobs:list_jobs", "List jobs, newest first."),
        "show": ("cli.jobs:show", "Show one job."),
        "download": ("cli.download:download", "Download a job's video, frames and manifest."),
        "cancel": ("cli.jobs:cancel", "Cancel jobs."),
        "delete": ("cli.jobs:delete", "Delete jobs and their files."),
    },
    "Experiments": {
        "sweep": ("cli.experiments.sweep:sweep", "Make videos at several parameter values, and compare."),
        "experiments": ("cli.experiments.commands:experiments", "List, show, steer and delete experiments."),
    },
    "The service": {
        "models": ("cli.models:models", "List models, and fetch their files."),
        "keys": ("cli.keys:keys", "Create, list and revoke API keys."),
        "deliveries": ("cli.deliveries:deliveries", "List the webhooks of a job or an experiment."),
        "redeliver": ("cli.deliveries:redeliver", "Send a webhook again."),
    },
    "Server processes": {
        "migrate": ("cli.servers:migrate", "Make the database's tables, or bring them up to date."),
        "api": ("cli.servers:api", "Run the API."),
        "worker": ("cli.servers:worker", "Run a worker: one model on one device."),
        "maintain": ("cli.servers:maintain", "Run a maintainer, which heals, delivers webhooks and cleans up."),
    },
    "The shell": {
        "completion": ("cli.completion:completion", "Print the completion script for bash, zsh or fish."),
    },
}

_COMMANDS = {name: command for section in _SECTIONS.values() for name, command in section.items()}

_EXIT_CODES = """\b
Exit codes:
   0  all went well
   1  the job failed or was canceled; the demo's video is not what was promised
   2  the command line is wrong, or the API refused the request
   3  the API cannot be reached or failed; a part of `up` cannot start
   4  the API key is missing or was refused
   5  --timeout passed
  65  a model's files are not usable      69  a model's files cannot be fetched
  71  the device is not there             78  a setting is wrong
 130  Ctrl-C                             143  SIGTERM
"""


class LazyGroup(click.Group):
    """A group that imports a command's module only to run it, and ends every failure with one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, _COMMANDS))
        for heading, commands in _SECTIONS.items():
            with formatter.section(heading):
                # Padded, so that the columns of all sections are in line.
                formatter.write_dl([(name.ljust(width), line) for name, (_, line) in commands.items()])

    def main(  # type: ignore[override]  # click's overloads say the same, at more length
        self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **extra)
        try:
            code = super().main(args, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()  # the help itself
            sys.exit(ExitCode.USAGE)
        except click.UsageError as error:
            hint = f" (see `{error.ctx.command_path} --help`)" if error.ctx else ""
            # click puts each choice of a missing argument on a line of its own.
            message = " ".join(error.format_message().split())
            _fail(f"{message.rstrip('.')}{hint}", ExitCode.USAGE)
        except click.ClickException as error:
            _fail(error.format_message(), error.exit_code)
        except AnimaticError as error:
            _fail(str(error), error.exit_code if isinstance(error, StartupError) else ExitCode.USAGE)
        except click.Abort:
            _fail("stopped", 130)
        except BrokenPipeError:
            # The reader, such as `head`, has left; the interpreter's last flush must not complain about it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        sys.exit(code if isinstance(code, int) else ExitCode.OK)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EXIT_CODES,
)
@click.version_option(package_name="animatic", message="animatic %(version)s")
def cli() -> None:
    """Turn still images into short videos with Stable Video Diffusion.

    \b
    animatic demo photo.jpg              make a video now: start a service, use it, stop it
    animatic up                          run the service, and leave it running; then:
    animatic submit photo.jpg            submit an image, and get the id of its job
    animatic download job_… -o out.mp4   fetch the job's video when it is done
    animatic submit photo.jpg -o a.mp4   all in one: submit, wait, fetch

    Commands talk to the service that `animatic up` runs on this machine. For another one set ANIMATIC_URL and
    ANIMATIC_API_KEY. `animatic COMMAND --help` says more of each.
    """


def main() -> NoReturn:
    """Entry point of the `animatic` command."""
    cli.main(prog_name="animatic")
    sys.exit(ExitCode.OK)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(int(code))
