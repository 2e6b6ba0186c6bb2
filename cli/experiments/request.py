"""The request that makes an experiment: photos are uploaded once, and named by their inputs."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from cli.client import ApiError, Client, path_to
from cli.experiments.cells import Experiment
from cli.experiments.grid import PRESETS, split_grid
from cli.failure import CommandError
from cli.output import note
from cli.patience import patiently
from cli.submit import parse_label, read_image
from shared.params import GenerationOptions

_URL = ("http://", "https://", "data:")
#: options that are fields of the request by the same name.
_AS_GIVEN = ("model", "webhook_url", "reuse")


def submit_experiment(client: Client, photos: Sequence[str], options: Mapping[str, Any]) -> Experiment:
    """Check what can be checked here, upload the photos, and have the experiment made, just once.

    Args:
        photos: files or URLs.
        options: of `animatic sweep`, those that were given.

    Raises:
        click.UsageError: the options say nothing that can be done.
        CommandError: a photo or the request was refused, or the service was away for too long.
    """
    body, names = build_request(options), image_names(photos)
    for photo in photos:
        if not photo.startswith(_URL) and not Path(photo).is_file():
            raise click.BadParameter(f"{photo} is not a file", param_hint="PHOTO")
    body["images"] = [
        {"input_id": _upload(client, photo), "name": name} for photo, name in zip(photos, names, strict=True)
    ]
    # One key over all tries, so that a lost answer costs no second experiment.
    key = str(uuid.uuid4())
    experiment: Experiment = patiently(lambda: client.post(path_to("experiments"), body, idempotency_key=key))
    for warning in experiment["warnings"]:
        note(f"warning: {warning}")
    note(f"{experiment['id']} accepted: {experiment['counts']['total']} cells")
    return experiment


def build_request(options: Mapping[str, Any]) -> dict[str, Any]:
    """The body of `POST /v1/experiments`, without the images."""
    preset = PRESETS.get(options.get("preset", ""))
    values = {name: options[name] for name in options if name in GenerationOptions.model_fields}
    grid, base = split_grid(values, preset)
    body = {name: options[name] for name in _AS_GIVEN if name in options}
    wandb = {name: options[f"wandb_{name}"] for name in ("project", "entity") if f"wandb_{name}" in options}
    if wandb or options.get("to_wandb"):
        body["wandb"] = wandb
    return {
        **body,
        "name": options.get("name") or (preset.name if preset else " × ".join(grid)),
        "grid": grid,
        "base": base,
        "labels": dict(parse_label(label) for label in options.get("labels", ())),
    }


def image_names(photos: Sequence[str]) -> list[str]:
    """The files' names without suffix; a name that comes again gets a number.

    Raises:
        click.BadParameter: a photo is given twice.
    """
    names: list[str] = []
    for index, photo in enumerate(photos):
        if photo in photos[:index]:
            raise click.BadParameter(f"{photo} is given twice", param_hint="PHOTO")
        path = "" if photo.startswith("data:") else urlsplit(photo).path if photo.startswith(_URL) else photo
        stem = Path(path).stem or "image"
        name, number = stem, 1
        while name in names:
            number += 1
            name = f"{stem}-{number}"
        names.append(name)
    return names


def _upload(client: Client, photo: str) -> str:
    source: dict[str, str | tuple[str, bytes, str]]
    if photo.startswith(_URL):
        source = {"image_url": photo}
    else:
        source = {"image": (Path(photo).name, read_image(photo), "application/octet-stream")}
    try:
        stored = patiently(lambda: client.post_form(path_to("inputs"), source, str(uuid.uuid4())))
    except ApiError as error:
        raise CommandError(f"{photo[:200]}: {error.message}", error.exit_code) from None
    return str(stored["id"])
