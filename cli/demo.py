"""`animatic demo`: one photo through the whole service, which lives only for it."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cli.client import Client, path_to
from cli.download import download_file
from cli.failure import CommandError
from cli.follow import follow
from cli.interrupts import Interrupts
from cli.output import note, require_success, show_progress
from cli.receiver import WebhookReceiver
from cli.stack import Stack, StackOptions
from cli.submit import create_job
from shared.environment import load_settings
from shared.exit_codes import ExitCode

_WEBHOOK_LIMIT_S = 20.0
_LOOK_S = 0.1


@click.command(epilog="Exit code 0 only if the MP4 decodes to the promised frames and size and the webhook verifies.")
@click.argument("photo", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--model",
    metavar="MODEL",
    default="tiny",
    show_default=True,
    help="Model: a name, a directory in diffusers' format, or NAME=DIRECTORY.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("animatic-demo.mp4"),
    show_default=True,
    help="File or folder for the video.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the service's data in this folder; default: nothing is kept.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def demo(photo: Path, model: str, output: Path, data_dir: Path | None, as_json: bool) -> None:
    """Make a video of PHOTO with a service of its own: start it on free ports, submit, watch, download, verify, and
    stop everything.

    The last line on standard output is `video: PATH`.

    \b
    animatic demo photo.jpg
    animatic demo photo.jpg --model svd-xt -o videos/
    """
    if output.is_dir():
        output /= "animatic-demo.mp4"
    size = _check_photo(photo)
    load_settings()  # a misspelt variable is better told before everything is started
    interrupts = Interrupts()
    started = time.monotonic()
    with WebhookReceiver() as receiver:
        folder = data_dir or _temporary_folder()
        options = StackOptions("127.0.0.1", 0, folder, model, env=_environment(receiver))
        stack = Stack(options, say=note, is_stopping=lambda: bool(interrupts.received))
        keep_logs = True
        try:
            stack.start()
            result = _beside(stack, interrupts, lambda: _make_video(stack, receiver, photo, size, output))
            keep_logs = False
        except CommandError as error:
            # A refusal says all there is to say; what went wrong otherwise may only be told by the logs.
            keep_logs = error.exit_code != ExitCode.USAGE
            raise
        finally:
            stack.stop()
            if data_dir is None:
                keep_logs = keep_logs and stack.folder.logs.exists()
                stack.erase(keep_logs=keep_logs)
                if keep_logs:
                    note(f"the logs are in {stack.folder.logs}")
    if interrupts.received:
        note("stopped")
        sys.exit(interrupts.exit_code)
    note(f"everything has stopped again; it took {time.monotonic() - started:.0f} s")
    if as_json:
        from cli.output import print_json

        print_json(result)
    else:
        click.echo(f"video: {output}")


def _check_photo(photo: Path) -> tuple[int, int]:
    """The API decides what it takes; this tells what is no whole image before everything is started.

    Returns:
        Width and height as the photo is looked at, px.
    """
    import PIL.Image
    import PIL.ImageOps

    try:
        with PIL.Image.open(photo) as image:
            return PIL.ImageOps.exif_transpose(image).size
    except PIL.UnidentifiedImageError:
        raise CommandError(f"{photo} is not an image; a photo as JPEG, PNG or WebP would be", ExitCode.USAGE) from None
    except (OSError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise CommandError(f"{photo} cannot be read as an image: {error}", ExitCode.USAGE) from None


def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="animatic-demo-"))
    # For root: Postgres runs as another user, which must be able to pass.
    folder.chmod(0o711)
    return folder


def _environment(receiver: WebhookReceiver) -> dict[str, str]:
    allowed = [os.environ.get("ANIMATIC_OUTBOUND_ALLOW"), receiver.address]
    return {
        "ANIMATIC_OUTBOUND_ALLOW": ",".join(host for host in allowed if host),
    }


def _beside(stack: Stack, interrupts: Interrupts, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """Do the client's work in a thread while this one looks after the servers.

    The servers belong to this thread: they would end with any other.

    Returns:
        The work's result; None when interrupted.
    """
    results: list[dict[str, Any]] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # raised again in the main thread
            failures.append(error)

    thread = threading.Thread(target=run, name="demo", daemon=True)
    if not interrupts.received:
        thread.start()
    while thread.is_alive() and not interrupts.received:
        stack.check()
        thread.join(_LOOK_S)
    if failures:
        raise failures[0]
    return results[0] if results else None


def _make_video(
    stack: Stack, receiver: WebhookReceiver, photo: Path, size: tuple[int, int], output: Path
) -> dict[str, Any]:
    with Client(stack.place) as client:
        job = create_job(client, str(photo), {"webhook_url": receiver.url})
        note(f"{job['id']} accepted: {photo} at {stack.place.url}")
        width, height = job["params"]["width"], job["params"]["height"]
        if size[0] * height != size[1] * width:
            note(
                f"{job['model']} makes videos of {width}×{height}: the photo, {size[0]}×{size[1]}, is cropped to that; "
                "`animatic submit --resize-mode pad` keeps all of it"
            )
        job = show_progress(follow(client, job["id"]))
        require_success(job)
        result = job["result"]
        download_file(client, result["video"], output)
        _verify(output, job)
        note(
            f"{result['num_frames']} frames of {result['width']}×{result['height']} "
            f"in {output} ({result['video']['size_bytes']} bytes): decoded and counted"
        )
        timings_s = client.get(path_to("jobs", job["id"], "manifest"))["timings_s"]
        note(f"on the worker: {', '.join(f'{stage} {seconds:.1f} s' for stage, seconds in timings_s.items())}")
        secret = client.get(path_to("webhook-secret"))["secret"]
    receiver.expect(job["id"], secret, limit_s=_WEBHOOK_LIMIT_S)
    note("webhook received and verified")
    return {"video": str(output), "job": job, "timings_s": timings_s}


def _verify(path: Path, job: dict[str, Any]) -> None:
    from shared.video import VideoUnreadableError, probe_mp4

    try:
        found = probe_mp4(path)
    except VideoUnreadableError as error:
        raise CommandError(str(error), ExitCode.JOB_FAILED) from None
    names = ("num_frames", "width", "height")
    for source, promised in (("asked for", job["params"]), ("promised", job["result"])):
        for name in names:
            if getattr(found, name) != promised[name]:
                raise CommandError(
                    f"{path} has {name} {getattr(found, name)}, but {promised[name]} was {source}", ExitCode.JOB_FAILED
                )
