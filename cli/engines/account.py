"""The unprivileged user that Postgres runs as when we are root, and where that user can reach its files."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from shared.errors import StartupError
from shared.exit_codes import ExitCode

#: the first that exists is used.
_CANDIDATES = ("postgres", "nobody")
#: folders that every user can reach, for what lies where only root can; the first that can be written.
_PUBLIC_PLACES = (Path("/var/lib/animatic"), Path("/var/tmp/animatic"))  # noqa: S108  # ownership is checked


class PopenOptions(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Account:
    """A user and group."""

    uid: int
    gid: int

    @property
    def popen_options(self) -> PopenOptions:
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def can_enter(self, folder: Path) -> bool:
        """Whether this user can reach a folder through all that enclose it."""
        return self.can_run(["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)])

    def can_run(self, argv: list[str]) -> bool:
        try:
            done = subprocess.run(
                argv,
                check=False,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                cwd="/",
                **self.popen_options,
            )
        except PermissionError:
            return False
        except subprocess.SubprocessError as error:
            raise StartupError(
                f"Postgres refuses to run as root, and becoming uid {self.uid} failed: {error}; "
                "start as an ordinary user, or set ANIMATIC_DATABASE_URL",
                exit_code=ExitCode.UNAVAILABLE,
            ) from error
        return done.returncode == 0


def choose_account(data: Path) -> Account | None:
    """Who Postgres should run as: None for ourselves, another user when we are root.

    Args:
        data: Postgres' data folder; when it exists, its owner stays the owner.
    """
    if os.geteuid() != 0:
        return None
    if data.exists() and (status := data.stat()).st_uid != 0:
        return Account(status.st_uid, status.st_gid)
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise StartupError(
        "Postgres refuses to run as root, and this machine has no user `postgres` or `nobody`; "
        "start as an ordinary user",
        exit_code=ExitCode.UNAVAILABLE,
    )


def public_place() -> Path:
    """A folder of root's that every user can enter."""
    for place in _PUBLIC_PLACES:
        try:
            place.mkdir(mode=0o711, parents=True, exist_ok=True)
        except OSError:
            continue
        status = place.lstat()
        # A folder in /var/tmp may have been made by anybody.
        if stat.S_ISDIR(status.st_mode) and status.st_uid == 0 and not status.st_mode & 0o022:
            place.chmod(status.st_mode | 0o111)
            return place
    raise StartupError(
        "Postgres refuses to run as root and needs a folder that other users can enter; "
        f"tried {' and '.join(map(str, _PUBLIC_PLACES))}",
        exit_code=ExitCode.UNAVAILABLE,
    )


def copy_once(sources: list[Path], target: Path) -> None:
    """Copy folders into `target`, unless a complete copy is there."""
    if target.exists():
        return
    target.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        partial.chmod(0o755)
        for source in sources:
            shutil.copytree(
                source,
                partial / source.name,
                symlinks=True,
                ignore=shutil.ignore_patterns("include", "*.a", "pginstall18", "__pycache__"),
            )
        try:
            partial.rename(target)
        except OSError:
            # Another process was faster; its copy is as good.
            if not target.exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
