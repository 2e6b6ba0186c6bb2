"""The one kind of error that a command ends with: a sentence and an exit code."""

from __future__ import annotations

import click

from shared.exit_codes import ExitCode


class CommandError(click.ClickException):
    """The command cannot do what was asked; shown as one line, `error: …`."""

    def __init__(self, message: str, exit_code: int = ExitCode.USAGE) -> None:
        super().__init__(message)
        # click declares it for the class; every error of ours has its own.
        self.exit_code = int(exit_code)  # type: ignore[misc]
