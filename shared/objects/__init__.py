"""The object store: one Protocol, two implementations, one conformance suite (tests/integration/test_objects.py)."""

from __future__ import annotations

from pathlib import Path

from shared.objects.local import LocalStore
from shared.objects.store import ObjectMissingError, ObjectStore
from shared.settings import Settings

__all__ = ["LocalStore", "ObjectMissingError", "ObjectStore", "open_store"]


def open_store(settings: Settings) -> ObjectStore:
    """The store that `ANIMATIC_OBJECT_STORE` names."""
    if settings.object_store.startswith("s3://"):
        from shared.objects.s3 import S3Store  # boto3 is a tenth of a process's start

        return S3Store(settings)
    key = settings.url_signing_key
    return LocalStore(
        Path(settings.object_store),
        public_url=settings.public_url,
        signing_key=key.get_secret_value() if key else None,
    )
