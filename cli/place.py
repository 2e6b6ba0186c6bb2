"""The data folder of `animatic up`, and where the service is that the commands talk to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cli.failure import CommandError
from shared.exit_codes import ExitCode

URL_FILE = "url"
KEY_FILE = "api-key"


@dataclass(frozen=True)
class Place:
    """Where a service is, and the key to it."""

    url: str
    api_key: str


def default_data_dir() -> Path:
    """`ANIMATIC_DATA_DIR`; else the usual one."""
    chosen = os.environ.get("ANIMATIC_DATA_DIR")
    return Path(chosen).expanduser() if chosen else usual_data_dir()


def usual_data_dir() -> Path:
    """/var/lib/animatic for root, the XDG data folder for others."""
    if os.geteuid() == 0:
        return Path("/var/lib/animatic")
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "animatic"


def find_place(url: str | None, data_dir: Path) -> Place:
    """Where to talk to.

    Args:
        url: as the user gave it; None: the service that `animatic up` runs on `data_dir`.

    Raises:
        CommandError: it is not known where the service is, or there is no key.
    """
    local_url = _read(data_dir / URL_FILE)
    if url is None:
        url = local_url
    if url is None:
        raise CommandError(
            f"no service found: `animatic up` has not run on {data_dir}; start it, give the --data-dir that it was "
            "given, or set ANIMATIC_URL and ANIMATIC_API_KEY for one that runs elsewhere",
            ExitCode.UNAVAILABLE,
        )
    url = url.rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise CommandError(f"the service's URL must begin with http:// or https://, got {url!r}")
    api_key = os.environ.get("ANIMATIC_API_KEY")
    if not api_key and url == local_url:
        # Never to another address: that key is for the service on this machine.
        api_key = _read(data_dir / KEY_FILE)
    if not api_key:
        raise CommandError(f"no API key for {url}: set ANIMATIC_API_KEY", ExitCode.UNAUTHORIZED)
    return Place(url, api_key)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}", ExitCode.UNAUTHORIZED) from None
