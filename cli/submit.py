"""`animatic submit`: an image and its parameters become a job."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import click

from cli.client import Client, Fields, path_to
from cli.failure import CommandError
from cli.follow import follow
from cli.options import as_json, labels_option, model_option, talks_to_api, timeout_option, webhook_option
from cli.output import note, print_json, require_success, show_progress
from cli.parameters import generation_options


@click.command(
    epilog="A parameter that is not given has the model's default (`animatic models list --json`); a model may allow "
    "less than these ranges. With --wait: exit code 1 if the job fails or is canceled, 5 if --timeout passes."
)
@click.argument("image")
@model_option
@generation_options
@click.option("--priority", type=click.IntRange(-100, 100), help="Jobs with a higher one go first; default: 0.")
@labels_option
@webhook_option("the job has ended")
@click.option("--idempotency-key", metavar="KEY", help="Sent again within 24 hours, the same key makes no second job.")
@click.option("--wait", is_flag=True, help="Show progress until the job ends.")
@timeout_option("With --wait: give up after S seconds; the job goes on.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File or folder to download the video to; implies --wait.",
)
@as_json
@talks_to_api
def submit(
    client: Client,
    image: str,
    labels: tuple[str, ...],
    idempotency_key: str | None,
    wait: bool,
    timeout: float | None,
    output: Path | None,
    as_json: bool,
    **parameters: Any,
) -> None:
    """Submit IMAGE to become a video: a file, an http(s) URL that the service fetches, or - for standard input.

    Prints the job's id, for `animatic watch` and `animatic download`.

    \b
    animatic submit photo.jpg -o video.mp4
    animatic submit photo.jpg --model svd-xt --motion-bucket-id 180 --seed 7
    animatic submit https://example.com/photo.jpg --label shot=12
    """
    fields: dict[str, str | tuple[str, bytes, str]] = {
        name: str(value) for name, value in parameters.items() if value is not None
    }
    if labels:
        fields["labels"] = json.dumps(dict(parse_label(label) for label in labels))
    job = create_job(client, image, fields, idempotency_key)
    for warning in job["warnings"]:
        note(f"warning: {warning}")
    if job["status"] == "queued":
        warn_if_unserved(client, job["model"], job["id"])
    if wait or output:
        if not as_json:
            note(f"{job['id']} accepted")
        job = show_progress(follow(client, job["id"], timeout_s=timeout))
    if as_json:
        print_json(job)
    else:
        click.echo(job["id"])
    if wait or output:
        require_success(job)
    if output:
        from cli.download import download_file, video_path

        path = download_file(client, job["result"]["video"], video_path(output, job["id"]))
        note(f"video: {path}")


def create_job(client: Client, image: str, fields: Fields, idempotency_key: str | None = None) -> dict[str, Any]:
    """Send the request.

    Args:
        image: path, URL or `-`.
        fields: the other fields of the form.
    """
    source: dict[str, str | tuple[str, bytes, str]]
    if image.startswith(("http://", "https://", "data:")):
        source = {"image_url": image}
    else:
        source = {"image": (Path(image).name, read_image(image), "application/octet-stream")}
    job: dict[str, Any] = client.post_form(path_to("jobs"), {**source, **fields}, idempotency_key or str(uuid.uuid4()))
    return job


def warn_if_unserved(client: Client, model: str, waiting: str) -> None:
    """Say so if no worker serves the model now: what was submitted is accepted all the same, and may wait for ever.

    Args:
        waiting: id of the job or experiment.
    """
    try:
        workers = client.get(path_to("models", model))["workers"]
    except CommandError:
        return  # a remark is not worth an error, such as a key's that may only submit
    if workers == 0:
        note(
            f"warning: no worker serves {model} right now, so {waiting} waits: start one, for example by "
            f"`animatic up --model {model}` in place of one that runs; `animatic models list` shows which have workers"
        )


def read_image(path: str) -> bytes:
    """The bytes of a file, or of standard input for `-`."""
    try:
        with click.open_file(path, "rb") as file:
            data: bytes = file.read()
            return data
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be read: {error.strerror}", param_hint="IMAGE") from None


def parse_label(text: str) -> tuple[str, str]:
    """`NAME=VALUE` in its two parts."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"a label must be NAME=VALUE, got {text!r}", param_hint="--label")
    return name, value
