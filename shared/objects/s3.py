"""Objects in an S3 bucket, on any server that speaks the protocol."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from shared.errors import StorageError
from shared.objects.store import ObjectMissingError
from shared.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class S3Store:
    """An `ObjectStore` in a bucket, below an optional prefix."""

    def __init__(self, settings: Settings) -> None:
        bucket, _, prefix = settings.object_store.removeprefix("s3://").partition("/")
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._client = _make_client(settings, settings.s3_endpoint_url)
        # A presigned URL is bound to its host: callers may know the store under another name than we do.
        public = settings.s3_public_endpoint_url
        self._signer = _make_client(settings, public) if public else self._client

    def put(self, key: str, data: bytes | Path, *, media_type: str) -> None:
        content = data if isinstance(data, bytes) else data.read_bytes()
        # A server should refuse a body that was damaged on the way; not every one looks.
        digest = hashlib.md5(content, usedforsecurity=False)
        with _translated("store"):
            answer = self._client.put_object(
                Bucket=self._bucket,
                Key=self._prefix + key,
                Body=content,
                ContentType=media_type,
                ContentMD5=base64.b64encode(digest.digest()).decode(),
            )
            stored = self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
        if stored["ContentLength"] != len(content):
            raise StorageError(f"the store kept {stored['ContentLength']} of {len(content)} bytes of {key}")
        # Of most servers the ETag is the body's MD5; with encryption it is not, and then only reading it back tells.
        if answer["ETag"].strip('"') != digest.hexdigest() and self.get(key) != content:
            raise StorageError(f"the store kept other bytes than it was given of {key}")

    def get(self, key: str) -> bytes:
        with _translated("read", key):
            return self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"].read()

    def delete(self, key: str) -> None:
        with _translated("delete"):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def list_keys(self, prefix: str) -> Iterator[str]:
        with _translated("list"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    yield item["Key"].removeprefix(self._prefix)

    def signed_url(self, key: str, *, ttl_s: int, media_type: str, filename: str | None = None) -> str:
        params: dict[str, Any] = {
            "Bucket": self._bucket,
            "Key": self._prefix + key,
            "ResponseContentType": media_type,
        }
        if filename is not None:
            params["ResponseContentDisposition"] = f'attachment; filename="{filename}"'
        return self._signer.generate_presigned_url("get_object", Params=params, ExpiresIn=ttl_s)

    def check(self) -> None:
        with _translated("reach"):
            self._client.head_bucket(Bucket=self._bucket)


def _make_client(settings: Settings, endpoint_url: str | None) -> S3Client:
    key, secret = settings.s3_access_key_id, settings.s3_secret_access_key
    return boto3.client(
        "s3",
        endpoint_url=endpoint_url or None,
        region_name=settings.s3_region,
        aws_access_key_id=key.get_secret_value() if key else None,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=Config(
            signature_version="s3v4",
            connect_timeout=5,
            read_timeout=30,
            retries={"mode": "standard", "max_attempts": 3},
            # Other servers than AWS do not know the newer checksums that boto3 sends by default.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


@contextmanager
def _translated(verb: str, key: str | None = None) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if key is not None and code in ("NoSuchKey", "404"):
            raise ObjectMissingError(f"no object {key}") from None
        raise StorageError(f"cannot {verb} in the object store: {code or 'unknown error'}") from error
    except (BotoCoreError, OSError) as error:
        raise StorageError(f"cannot {verb} in the object store: {type(error).__name__}") from error
