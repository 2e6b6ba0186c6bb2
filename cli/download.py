"""`animatic download`: files arrive whole and verified, or not at all."""

from __future__ import annotations

import hashlib
import mimetypes
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from urllib3.exceptions import HTTPError

from cli.client import Client, ConnectionFailedError, path_to
from cli.failure import CommandError
from cli.options import as_json, talks_to_api
from cli.output import print_json, progress_bar, require_success, show_size, standard_error
from shared.exit_codes import ExitCode


@click.command()
@click.argument("job")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File or folder for the video; default: JOB.mp4 in the current folder.",
)
@click.option(
    "--frames", type=click.Path(file_okay=False, path_type=Path), help="Download the frames, too, into this folder."
)
@click.option(
    "--manifest",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Download the manifest, too: what it takes to make this video again.",
)
@as_json
@talks_to_api
def download(
    client: Client, job: str, output: Path | None, frames: Path | None, manifest: Path | None, as_json: bool
) -> None:
    """Download a job's video, and its frames and manifest if asked for.

    \b
    animatic download job_0192f0c1d7a27c3e8f10aa55bb66cc77 -o video.mp4 --frames frames/
    """
    found = client.get(path_to("jobs", job))
    require_success(found)
    result = found["result"]
    if frames and not result["frames"]:
        raise CommandError(f"{job} kept no frames: to keep them, submit with --frames-format png, jpeg or webp")
    target = video_path(output or Path(), found["id"])
    paths = {"video": str(download_file(client, result["video"], target))}
    if manifest:
        paths["manifest"] = str(download_file(client, result["manifest"], manifest))
    written: dict[str, Any] = dict(paths)
    if frames:
        written["frames"] = [
            str(download_file(client, frame, frames / _frame_name(number, frame)))
            for number, frame in enumerate(result["frames"])
        ]
    if as_json:
        print_json(written)
        return
    for name, path in paths.items():
        click.echo(f"{name}: {path}")
    if frames:
        click.echo(f"frames: {frames} ({len(result['frames'])} files)")


def video_path(output: Path, job_id: str) -> Path:
    """Where the video goes: the file itself, or the job's id as a name in a folder that is there."""
    return output / f"{job_id}.mp4" if output.is_dir() else output


def download_file(client: Client, file: dict[str, Any], target: Path) -> Path:
    """Fetch one file of a result, check size and SHA-256, and only then put it in place.

    Args:
        file: as the job describes it: url, size_bytes, sha256.

    Raises:
        CommandError: it cannot be written, or what came is not what the job promised.
    """
    with progress_bar(standard_error(), of_bytes=True) as progress:
        task = progress.add_task(target.name, total=file["size_bytes"])
        return fetch_file(client, file, target, lambda size: progress.advance(task, size))


def fetch_file(
    client: Client, file: dict[str, Any], target: Path, advance: Callable[[int], None] = lambda size: None
) -> Path:
    """The same, without a bar.

    Args:
        advance: gets the number of bytes of each piece that has come.
    """
    # The path alone: links carry ANIMATIC_PUBLIC_URL, which need not be how we reach the service.
    path = urlsplit(file["url"]).path
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(client, path, file, partial, advance)
        partial.replace(target)
    except OSError as error:
        raise CommandError(f"{target} cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    return target


def _fetch(client: Client, path: str, file: dict[str, Any], partial: Path, advance: Callable[[int], None]) -> None:
    digest = hashlib.sha256()
    size = 0
    with closing(client.stream(path)) as response, open(partial, "xb") as output:
        try:
            for chunk in response.stream(2**16):
                output.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                advance(len(chunk))
        except HTTPError as error:
            raise ConnectionFailedError(f"the download broke after {show_size(size)}: {error}") from None
    if size != file["size_bytes"] or digest.hexdigest() != file["sha256"]:
        raise CommandError(
            f"the download of {path} is not what the job promised: "
            f"{file['size_bytes']} bytes with SHA-256 {file['sha256']}, got {size} with {digest.hexdigest()}",
            ExitCode.UNAVAILABLE,
        )


def _frame_name(number: int, frame: dict[str, Any]) -> str:
    suffix = mimetypes.guess_extension(frame["media_type"]) or ".webp"
    return f"frame_{number:04d}{suffix}"
