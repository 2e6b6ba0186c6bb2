"""Make the bucket that ANIMATIC_OBJECT_STORE names, if it is not there. For the object store of docker-compose.yml."""

from __future__ import annotations

import sys

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from shared.environment import load_settings
from shared.errors import StartupError
from shared.exit_codes import ExitCode


def make_bucket() -> str:
    """Returns the bucket's name.

    Raises:
        StartupError: the settings name no bucket, or it cannot be made.
    """
    settings = load_settings()
    if not settings.object_store.startswith("s3://"):
        raise StartupError(
            f"ANIMATIC_OBJECT_STORE must begin with s3://, got {settings.object_store}", exit_code=ExitCode.CONFIG
        )
    bucket = settings.object_store.removeprefix("s3://").partition("/")[0]
    key, secret = settings.s3_access_key_id, settings.s3_secret_access_key
    client = boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint_url,
        region_name=settings.s3_region,
        aws_access_key_id=key.get_secret_value() if key else None,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
    )
    try:
        if bucket not in (known["Name"] for known in client.list_buckets()["Buckets"]):
            client.create_bucket(Bucket=bucket)
    except (BotoCoreError, ClientError) as error:
        raise StartupError(f"cannot make the bucket {bucket}: {error}", exit_code=ExitCode.UNAVAILABLE) from error
    return bucket


if __name__ == "__main__":
    try:
        print(f"bucket {make_bucket()} is there")  # noqa: T201
    except StartupError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
