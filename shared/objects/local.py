"""Objects as files in a directory that API and workers share; the API serves them under signed, expiring URLs."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlencode

from shared.errors import GoneError, NotFoundError, StorageError
from shared.objects.store import ObjectMissingError

_KEY_FILE = ".signing-key"
_PARTIALS = ".partial"


class LocalStore:
    """An `ObjectStore` in a directory.

    What goes wrong with one object is told to callers, too, so only `check` names the directory.
    """

    def __init__(self, root: Path, *, public_url: str, signing_key: str | None = None) -> None:
        self._root = root.absolute()
        self._public_url = public_url.rstrip("/")
        self._signing_key = signing_key.encode() if signing_key else None

    def put(self, key: str, data: bytes | Path, *, media_type: str) -> None:
        path = self._path(key)
        content = data if isinstance(data, bytes) else data.read_bytes()
        partial: Path | None = None
        try:
            # Written elsewhere, then renamed: no reader, and no list, ever sees half an object.
            partial = self._write_partial(content)
            _rename(partial, path)
        except OSError as error:
            raise StorageError(f"cannot store an object: {error.strerror}") from error
        finally:
            if partial is not None:
                partial.unlink(missing_ok=True)

    def _write_partial(self, content: bytes) -> Path:
        folder = self._root / _PARTIALS
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            os.unlink(name)
            raise
        return Path(name)

    def get(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            raise ObjectMissingError(f"no object {key}") from None
        except OSError as error:
            raise StorageError(f"cannot read an object: {error.strerror}") from error

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
            for parent in path.parents:
                if self._root in (parent, parent.parent):
                    break
                parent.rmdir()
        except OSError as error:
            # A folder that still holds other objects stays.
            if path.exists():
                raise StorageError(f"cannot delete an object: {error.strerror}") from error

    def list_keys(self, prefix: str) -> Iterator[str]:
        top = self._root / prefix.rpartition("/")[0]
        for folder, _, files in os.walk(top):
            for name in files:
                key = (Path(folder) / name).relative_to(self._root).as_posix()
                if key.startswith(prefix) and not key.startswith("."):
                    yield key

    def signed_url(self, key: str, *, ttl_s: int, media_type: str, filename: str | None = None) -> str:
        fields = {"expires": str(int(time.time()) + ttl_s), "type": media_type}
        if filename is not None:
            fields["filename"] = filename
        fields["signature"] = self._sign(key, fields)
        return f"{self._public_url}/files/{quote(key)}?{urlencode(fields)}"

    def open_signed(self, key: str, fields: dict[str, str]) -> Path:
        """The file that a signed URL gives.

        Raises:
            NotFoundError: the signature is not ours, or the object is not there.
            GoneError: the URL has expired.
        """
        unsigned: dict[str, str] = {name: fields[name] for name in ("expires", "type", "filename") if name in fields}
        if not hmac.compare_digest(self._sign(key, unsigned).encode(), fields.get("signature", "").encode()):
            raise NotFoundError("this download URL is not valid; ask the API for a new one")
        if int(fields["expires"]) < time.time():
            raise GoneError("this download URL has expired; ask the API for a new one")
        path = self._path(key)
        if not path.is_file():
            raise NotFoundError("the file is no longer here")
        return path

    def check(self) -> None:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._root) as file:
                file.write(b"room?" * 1000)
        except OSError as error:
            raise StorageError(f"cannot write to {self._root}: {error.strerror}") from error

    def _path(self, key: str) -> Path:
        parts = PurePosixPath(key).parts
        if key.startswith(("/", ".")) or ".." in parts or "\0" in key:
            raise NotFoundError(f"not a key of this store: {key[:80]!r}")
        return self._root.joinpath(*parts)

    def _sign(self, key: str, fields: dict[str, str]) -> str:
        # Quoted, so that no part can hold what looks like another.
        message = urlencode({"key": key, **dict(sorted(fields.items()))})
        return hmac.new(self._key(), message.encode(), hashlib.sha256).hexdigest()

    def _key(self) -> bytes:
        """The signing key; made once and kept in the store, so that every API process signs alike."""
        if self._signing_key is None:
            path = self._root / _KEY_FILE
            try:
                self._root.mkdir(parents=True, exist_ok=True)
                partial = self._write_partial(secrets.token_hex(32).encode())
                with suppress(FileExistsError):  # another process was first
                    os.link(partial, path)
                partial.unlink()
                self._signing_key = path.read_bytes()
            except OSError as error:
                raise StorageError(f"cannot keep the signing key of download URLs: {error.strerror}") from error
        return self._signing_key


def _rename(partial: Path, path: Path) -> None:
    for last in (False, False, False, True):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(partial, path)
            break
        except (FileNotFoundError, FileExistsError):
            # A delete has just taken the empty folder away.
            if last:
                raise
    with suppress(FileNotFoundError):
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    """Make the rename itself durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
