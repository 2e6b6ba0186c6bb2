"""What an API key may do."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum


class Scope(StrEnum):
    #: read jobs, inputs, deliveries, files and models.
    JOBS_READ = "jobs:read"
    #: submit, cancel and delete jobs, upload inputs, send webhooks again.
    JOBS_WRITE = "jobs:write"
    #: make and revoke keys, read and rotate the webhook secret; and, since it can make any key, all the rest.
    ADMIN = "admin"


ALL_SCOPES = tuple(Scope)
#: as plain text, for command lines.
SCOPE_NAMES = tuple(scope.value for scope in Scope)


def allows(granted: Collection[str], needed: Scope) -> bool:
    """Whether a key with these scopes may do what needs that one."""
    return needed in granted or Scope.ADMIN in granted
