"""The data folder of `animatic up`: who uses it, its key, its logs."""

from __future__ import annotations

import base64
import fcntl
import os
import secrets
from pathlib import Path

from cli.place import KEY_FILE, URL_FILE
from shared.errors import StartupError
from shared.exit_codes import ExitCode

_LOG_BYTES_MAX = 10 * 2**20


class DataFolder:
    """One folder, for one running `animatic up` at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logs = path / "logs"
        self.key_path = path / KEY_FILE
        self._lock: int | None = None

    def take(self) -> None:
        """Make it if it is absent, and keep others out.

        Raises:
            StartupError: it cannot be used, or another `animatic up` runs on it.
        """
        try:
            # Others may pass through, since Postgres may run as another user; what is inside is closed to them.
            self.path.mkdir(mode=0o711, parents=True, exist_ok=True)
            self.logs.mkdir(mode=0o700, exist_ok=True)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StartupError(
                f"the data folder {self.path} cannot be used: {error.strerror}", exit_code=ExitCode.CONFIG
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(lock, 20, 0).decode().strip()
            os.close(lock)
            raise StartupError(
                f"another `animatic up` (pid {holder}) runs on {self.path}; stop it, or choose another --data-dir",
                exit_code=ExitCode.UNAVAILABLE,
            ) from None
        os.truncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock

    def release(self) -> None:
        """Let others in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def has_key(self) -> bool:
        """Whether somebody has said what the API key is, or it is known from the last time."""
        names = ("ANIMATIC_BOOTSTRAP_API_KEY", "ANIMATIC_BOOTSTRAP_API_KEY_FILE")
        return any(os.environ.get(name) for name in names) or self.key_path.exists()

    def take_key(self) -> str:
        """The API key: as the user's environment says, as kept from the last time, or a new one."""
        key = os.environ.get("ANIMATIC_BOOTSTRAP_API_KEY")
        source = os.environ.get("ANIMATIC_BOOTSTRAP_API_KEY_FILE")
        try:
            if not key and source:
                key = Path(source).read_text(encoding="utf-8").strip()
            if not key and self.key_path.exists():
                return self.key_path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise StartupError(
                f"{error.filename} cannot be read: {error.strerror}", exit_code=ExitCode.CONFIG
            ) from None
        key = key or "ak_" + base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
        _write_private(self.key_path, key)
        return key

    def write_url(self, url: str) -> None:
        """Tell the other commands where the service is."""
        _write_private(self.path / URL_FILE, url)

    def last_url(self) -> str:
        """Where the service was the last time; empty if it never ran."""
        try:
            return (self.path / URL_FILE).read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    def log(self, name: str) -> Path:
        """The file for a part's log; a large one is put aside."""
        path = self.logs / f"{name}.log"
        if path.exists() and path.stat().st_size > _LOG_BYTES_MAX:
            path.replace(path.with_suffix(".log.1"))
        return path


def _write_private(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text + "\n")
    partial.replace(path)
