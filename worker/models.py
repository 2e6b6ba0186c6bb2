"""`python -m worker.models`: fetch models and show which are here. No torch."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import huggingface_hub
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from shared.catalogue import BUILT_IN, ModelEntry, find_entry
from shared.environment import load_settings
from shared.errors import StartupError
from shared.exit_codes import ExitCode
from shared.settings import Settings
from worker.checkpoint import CONFIGS, WEIGHTS, ResolvedCheckpoint
from worker.preflight import check_model, find_snapshot


def wanted_files(variant: str | None) -> list[str]:
    """Patterns of the files that loading reads: a repository holds most weights three times over."""
    infix = f".{variant}" if variant else ""
    weights = [
        pattern
        for component, base in WEIGHTS.items()
        for pattern in (
            f"{component}/{base}{infix}.safetensors",
            f"{component}/{base}{infix}-?????-of-?????.safetensors",
            f"{component}/{base}-?????-of-?????{infix}.safetensors",
            f"{component}/{base}.safetensors.index{infix}.json",
        )
    ]
    return ["model_index.json", *CONFIGS.values(), *weights]


def pull(settings: Settings, entry: ModelEntry) -> ResolvedCheckpoint | None:
    """Bring a model onto this machine and check it; progress bars go to stderr.

    Raises:
        StartupError: it cannot be fetched, or what came is not a whole SVD checkpoint.
    """
    settings = settings.model_copy(update={"device": "auto"})
    if entry.source == "hub":
        _fetch(settings, entry, force=_is_broken(settings, entry))
    return check_model(settings, entry)


def _is_broken(settings: Settings, entry: ModelEntry) -> bool:
    """Whether files of an earlier pull are damaged; the hub's client takes any file that exists for whole."""
    try:
        check_model(settings, entry)
    except StartupError as error:
        return find_snapshot(entry) is not None and "truncated" in str(error)
    return False


def _fetch(settings: Settings, entry: ModelEntry, *, force: bool) -> Path:
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    page = f"https://huggingface.co/{entry.repository}"
    try:
        return Path(
            huggingface_hub.snapshot_download(
                entry.repository or "",
                revision=entry.revision,
                token=token,
                allow_patterns=wanted_files(entry.variant),
                force_download=force,
            )
        )
    # First the subclass: a gated repository is also one that was not found.
    except GatedRepoError as error:
        if token is None:
            sentence = f"{entry.name} is gated: accept its terms at {page} and put a token into ANIMATIC_HF_TOKEN"
        else:
            sentence = f"{entry.name} is gated, and the token's account has no access: accept its terms at {page}"
        raise _unavailable(sentence) from error
    except RevisionNotFoundError as error:
        raise _unavailable(f"{page} has no revision {entry.revision}: check the catalogue") from error
    except RepositoryNotFoundError as error:
        # The hub answers so to a wrong token too, lest it tell of private repositories.
        raise _unavailable(f"{page} is not there, or the token in ANIMATIC_HF_TOKEN is not valid") from error
    except HfHubHTTPError as error:
        raise _unavailable(f"the hub refused {entry.repository}: {str(error).splitlines()[0]}") from error
    # No connection comes as LocalEntryNotFoundError, OfflineModeIsEnabled, or one of the HTTP library's own.
    except OSError as error:
        if error.errno == errno.ENOSPC:
            cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
            free_gb = shutil.disk_usage(_existing_parent(cache)).free / 1e9
            raise _unavailable(
                f"the disk is full: {free_gb:.1f} GB are free at {cache}; make room, or set HF_HOME to another disk"
            ) from error
        raise _unavailable(f"{page} cannot be reached: check the network, then pull again") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "requests"):
            raise _unavailable(f"{page} cannot be reached: check the network, then pull again") from error
        raise


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _unavailable(sentence: str) -> StartupError:
    return StartupError(sentence, exit_code=ExitCode.MODEL_UNAVAILABLE)


def describe(settings: Settings, entry: ModelEntry) -> dict[str, str | bool | None]:
    """One line of the list: what the model is, and whether it is on this machine."""
    try:
        checkpoint = check_model(settings.model_copy(update={"device": "auto"}), entry)
        state = "ready"
    except StartupError as error:
        checkpoint = None
        state = "not pulled" if error.exit_code == ExitCode.MODEL_UNAVAILABLE else f"broken: {error}"
    return {
        "name": entry.name,
        "title": entry.title,
        "state": state,
        "gated": entry.gated,
        "source": entry.repository or entry.directory or "comes with Animatic",
        "revision": entry.revision,
        "directory": str(checkpoint.directory) if checkpoint else None,
    }


@contextmanager
def _ending_with_its_sentence() -> Iterator[None]:
    """End the command with a StartupError's sentence and exit code, if one comes."""
    try:
        yield
    except StartupError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


@click.group()
def main() -> None:
    """Fetch models, and show which are here."""


@main.command("pull")
@click.argument("name")
def pull_command(name: str) -> None:
    """Fetch the model NAME, unless it is here, and check it."""
    # Its warnings of each retry say less than our one sentence in the end.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with _ending_with_its_sentence():
        checkpoint = pull(load_settings(), find_entry(name))
    click.echo(f"{name} is ready" + (f" in {checkpoint.directory}" if checkpoint else ""))


@main.command("check")
@click.argument("name")
def check_command(name: str) -> None:
    """Say what keeps a worker on this machine from loading the model NAME, if anything does."""
    with _ending_with_its_sentence():
        check_model(load_settings(), find_entry(name))


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(as_json: bool) -> None:
    """Print the built-in models and those of the settings."""
    with _ending_with_its_sentence():
        settings = load_settings()
        entries = [find_entry(name) for name in dict.fromkeys((*BUILT_IN, *settings.models, settings.model))]
    models = [describe(settings, entry) for entry in entries]
    if as_json:
        click.echo(json.dumps(models, indent=2))
        return
    for model in models:
        click.echo(f"{model['name']:<12} {model['state']:<22} {model['source']}{' (gated)' if model['gated'] else ''}")


if __name__ == "__main__":
    main()
