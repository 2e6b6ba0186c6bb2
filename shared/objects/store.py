"""What the service asks of an object store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Protocol

from shared.errors import AnimaticError


class ObjectMissingError(AnimaticError):
    """There is no object under this key."""

    code: ClassVar[str] = "object_missing"


class ObjectStore(Protocol):
    """Blobs under keys such as `jobs/job_…/attempts/1/video.mp4`.

    Every method raises `StorageError` when the store is not answering or has no room.
    """

    def put(self, key: str, data: bytes | Path, *, media_type: str) -> None:
        """Store all of it or nothing; returns once it is durable and its length was verified."""

    def get(self, key: str) -> bytes:
        """Read an object.

        Raises:
            ObjectMissingError: there is none.
        """

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    def list_keys(self, prefix: str) -> Iterator[str]:
        """Keys that start with the prefix, in no particular order."""

    def signed_url(self, key: str, *, ttl_s: int, media_type: str, filename: str | None = None) -> str:
        """A URL that gives this one object to whoever holds it, until it expires.

        Args:
            filename: what a browser should save it as; None: shown in place.
        """

    def check(self) -> None:
        """Cheap proof that the store would accept an object now."""


def delete_prefix(store: ObjectStore, prefix: str) -> int:
    """Remove everything below a prefix; returns how many objects that were."""
    keys = list(store.list_keys(prefix))
    for key in keys:
        store.delete(key)
    return len(keys)
