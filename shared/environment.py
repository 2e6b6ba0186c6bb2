"""The environment: variables with the prefix `ANIMATIC_`, read once when a process starts.

Secrets may come from files: `ANIMATIC_X_FILE=/run/secrets/x` sets `ANIMATIC_X`. An unknown `ANIMATIC_*` variable is a
start-up error, since pydantic-settings would ignore a misspelt one in silence.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

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
    values: dict[str, str] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable in CLIENT_VARIABLES or not value:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if _KUBERNETES_VARIABLE.match(variable) and (name not in Settings.model_fields or "://" in value):
            continue  # ANIMATIC_API_PORT is a setting of ours, and a Service's `tcp://10.0.0.7:8000`
        if name in Settings.model_fields:
            values[name] = value
        elif name.endswith("_file") and name.removesuffix("_file") in Settings.model_fields:
            values.setdefault(name.removesuffix("_file"), _read_secret(variable, value))
        else:
            raise StartupError(
                f"unknown setting {variable}; docs/settings.md lists them all", exit_code=ExitCode.CONFIG
            )
    try:
        return Settings(**values)  # type: ignore[arg-type]  # pydantic parses the strings
    except ValidationError as error:
        raise StartupError(_explain(error), exit_code=ExitCode.CONFIG) from None


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
