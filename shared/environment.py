"""The environment: variables with the prefix `ANIMATIC_`, read once when a process starts.

Secrets may come from files: `ANIMATIC_X_FILE=/run/secrets/x` sets `ANIMATIC_X`. An unknown `ANIMATIC_*` variable is a
start-up error of the servers, since pydantic-settings would ignore a misspelt one in silence; clients only warn of it,
as their environment may be meant for a service of another version.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping

from pydantic import ValidationError

from shared.errors import StartupError
from shared.exit_codes import ExitCode
from shared.settings import PREFIX, Settings

#: variables that the client or the start scripts read; known, but not settings of a server process.
CLIENT_VARIABLES = frozenset({"ANIMATIC_URL", "ANIMATIC_API_KEY", "ANIMATIC_DATA_DIR", "ANIMATIC_LOG_LEVEL"})

#: what Kubernetes injects for a Service that is called `animatic` or `animatic-*`.
_KUBERNETES_VARIABLE = re.compile(r"^ANIMATIC_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\w+)?)$")


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from environment variables.

    Raises:
        StartupError: a variable is unknown or its value is not allowed; the message names it.
    """
    environ = os.environ if environ is None else environ
    if unknown := unknown_variables(environ):
        raise StartupError(
            f"unknown setting {', '.join(map(describe_unknown, unknown))}; docs/settings.md lists them all",
            exit_code=ExitCode.CONFIG,
        )
    values: dict[str, str] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or not value:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if _KUBERNETES_VARIABLE.match(variable) and "://" in value:
            continue  # ANIMATIC_API_PORT is a setting of ours, and a Service's `tcp://10.0.0.7:8000`
        if name in Settings.model_fields:
            values[name] = value
        elif name.removesuffix("_file") in Settings.model_fields:
            values.setdefault(name.removesuffix("_file"), _read_secret(variable, value))
    try:
        return Settings(**values)  # type: ignore[arg-type]  # pydantic parses the strings
    except ValidationError as error:
        raise StartupError(_explain(error), exit_code=ExitCode.CONFIG) from None


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """The variables with our prefix that no part of Animatic reads, and Kubernetes does not inject."""
    return [
        variable
        for variable, value in environ.items()
        if variable.startswith(PREFIX)
        and value
        and variable not in CLIENT_VARIABLES
        and variable.removeprefix(PREFIX).lower().removesuffix("_file") not in Settings.model_fields
        and not _KUBERNETES_VARIABLE.match(variable)
    ]


def describe_unknown(variable: str, likely: Iterable[str] = ()) -> str:
    """The variable, and the one that was meant, if any is near: `ANIMATIC_APIKEY (did you mean ANIMATIC_API_KEY?)`.

    Args:
        likely: names that are looked at before all others.
    """
    every = [*(f"{PREFIX}{name.upper()}" for name in Settings.model_fields), *sorted(CLIENT_VARIABLES)]
    for names in (likely, every):
        # Without the prefix, which would make all of them alike.
        known = [name.removeprefix(PREFIX) for name in names]
        if nearest := difflib.get_close_matches(variable.removeprefix(PREFIX), known, n=1):
            return f"{variable} (did you mean {PREFIX}{nearest[0]}?)"
    return variable


def _read_secret(variable: str, path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError as error:
        raise StartupError(
            f"{variable} names a file that cannot be read: {path} ({error.strerror})",
            exit_code=ExitCode.CONFIG,
        ) from None


def _explain(error: ValidationError) -> str:
    # The value is left out: it may be a secret.
    return "; ".join(
        f"{PREFIX}{'_'.join(str(part) for part in item['loc'][:1]).upper()}: {item['msg']}"
        if item["loc"]
        else str(item["msg"]).removeprefix("Value error, ")
        for item in error.errors()
    )
