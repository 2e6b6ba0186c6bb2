"""A misspelt `ANIMATIC_…` variable is told rather than ignored in silence."""

from __future__ import annotations

import os

from cli.output import note

#: what the commands themselves read.
_OURS = ("ANIMATIC_URL", "ANIMATIC_API_KEY", "ANIMATIC_DATA_DIR")


def warn_of_unknown_variables() -> None:
    """Name the variables with our prefix that no part of Animatic knows; those of the servers are known."""
    if not any(variable.startswith("ANIMATIC_") and variable not in _OURS for variable in os.environ):
        return
    # Imported only now: all settings take a tenth of a second to load, and most environments need no look at them.
    from shared.environment import describe_unknown, unknown_variables

    for variable in unknown_variables(os.environ):
        note(f"warning: unknown variable {describe_unknown(variable, likely=_OURS)}, which is ignored")
