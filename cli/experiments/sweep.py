"""`animatic sweep`: photos and lists of values become an experiment, and files that show what came out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from cli.client import Client
from cli.experiments.cells import Cell, Experiment, read_cells, read_experiment
from cli.experiments.effects import Effect, find_effects
from cli.experiments.grid import PRESETS, ValueList
from cli.experiments.report import print_effects
from cli.experiments.request import submit_experiment
from cli.experiments.results import pictures_missing, write_results
from cli.experiments.watching import describe_counts, watch_experiment
from cli.failure import CommandError
from cli.options import as_json, labels_option, model_option, talks_to_api, timeout_option, webhook_option
from cli.output import note, print_json
from cli.parameters import generation_options
from cli.submit import warn_if_unserved
from shared.exit_codes import ExitCode


@click.command(
    epilog="Exit code 1 if a cell (one photo at one combination) failed or was canceled; what succeeded "
    "is written all the same. Exit code 5 if --timeout passes. Ctrl-C leaves the experiment running."
)
@click.argument("photos", nargs=-1, metavar="[PHOTO]…")
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="The values of an experiment in the article about SVD; options given besides win.",
)
@functools.partial(generation_options, wrap=ValueList)
@click.option("--name", metavar="NAME", help="Name of the experiment; default: the preset's, or what is swept.")
@model_option
@labels_option
@webhook_option("the experiment has finished")
@click.option("--reuse", is_flag=True, help="Take results of equal jobs that have succeeded already.")
@click.option("--wandb", "to_wandb", is_flag=True, help="Have the service log the experiment to Weights & Biases.")
@click.option("--wandb-project", metavar="NAME", help="Its project; implies --wandb; default: the service's.")
@click.option("--wandb-entity", metavar="NAME", help="Its team or user; implies --wandb; default: the service's.")
@click.option("--attach", metavar="EXPERIMENT", help="Submit nothing: watch this experiment, and write its results.")
@click.option("--detach", is_flag=True, help="Submit, print the experiment's id, and do not wait.")
@timeout_option("Give up watching after S seconds; the experiment goes on.")
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the results; default: the experiment's id.",
)
@as_json
@talks_to_api
def sweep(
    client: Client,
    photos: tuple[str, ...],
    attach: str | None,
    detach: bool,
    timeout: float | None,
    out: Path | None,
    as_json: bool,
    **request: Any,
) -> None:
    """Make a video of every PHOTO (files or URLs) at every combination of the values, and compare them.

    Each parameter takes one value or several, separated by commas; `animatic submit --help` says what each may be.
    Writes results.csv (parameters, measures, timings, URLs), the videos, contact-sheet.png and side-by-side.mp4, and
    prints what each parameter did to each measure.

    \b
    animatic sweep *.jpg --preset motion
    animatic sweep photo.jpg --motion-bucket-id 60,120,180 --noise-aug-strength 0.02,0.1 --seed 42
    animatic sweep --attach exp_0192f0c1d7a27c3e8f10aa55bb66cc77 -o results/
    """
    given = {name: value for name, value in request.items() if value not in (None, (), False)}
    if attach is None:
        if not photos:
            raise click.UsageError("give at least one PHOTO, or --attach EXPERIMENT")
        experiment = submit_experiment(client, photos, given)
    elif photos or given or detach:
        raise click.UsageError("--attach takes an experiment as it is: neither photos nor parameters, nor --detach")
    else:
        experiment = read_experiment(client, attach)
    if experiment["counts"]["queued"]:
        warn_if_unserved(client, experiment["model"], experiment["id"])
    if detach:
        if as_json:
            print_json(experiment)
        else:
            click.echo(experiment["id"])
        return
    if reason := pictures_missing():
        note(f"warning: there will be no pictures to compare: {reason} (pip install 'animatic[sweep]')")
    _finish(client, experiment, out or Path(experiment["id"]), timeout, as_json=as_json)


def _finish(client: Client, experiment: Experiment, folder: Path, timeout: float | None, *, as_json: bool) -> None:
    experiment_id = experiment["id"]
    experiment = _kept_running(experiment_id, lambda: watch_experiment(client, experiment_id, timeout_s=timeout))
    cells = read_cells(client, experiment)
    written = write_results(client, cells, folder)
    effects = find_effects(cells, experiment["grid"])
    if as_json:
        print_json(
            {
                "experiment": experiment,
                "effects": [_effect_resource(effect) for effect in effects],
                "files": {kind: [str(path) for path in paths] for kind, paths in written.items()},
            }
        )
    else:
        print_effects(effects)
        click.echo(f"\n{experiment_id} finished: {describe_counts(experiment)}")
        for kind in ("table", "contact sheet", "side by side"):
            for path in written.get(kind, ()):
                click.echo(f"{kind}: {path}")
        click.echo(f"videos: {folder / 'videos'} ({len(written['videos'])} files)")
    _require_all(cells)


def _kept_running(experiment_id: str, watch: Callable[[], Experiment]) -> Experiment:
    try:
        return watch()
    except KeyboardInterrupt:
        note(
            f"\n{experiment_id} goes on; `animatic sweep --attach {experiment_id}` watches it again, "
            f"`animatic experiments cancel {experiment_id}` ends it"
        )
        raise


def _effect_resource(effect: Effect) -> dict[str, Any]:
    return {
        "parameter": effect.parameter,
        "measure": effect.measure,
        "means": {str(value): mean for value, mean in effect.means.items()},
        "range": effect.range,
        "rank_correlations": list(effect.correlations),
    }


def _require_all(cells: Sequence[Cell]) -> None:
    """
    Raises:
        CommandError: a cell failed or was canceled.
    """
    missing = [cell for cell in cells if cell.status != "succeeded"]
    if not missing:
        return
    first = missing[0]
    values = ", ".join(f"{name} {value}" for name, value in first.values.items())
    error = (first.job or {}).get("error") or {}
    reason = f": {error['message']}" if error else ""
    raise CommandError(
        f"{len(missing)} of {len(cells)} cells did not succeed; the first, {first.image} at {values}, "
        f"{first.status}{reason}",
        ExitCode.JOB_FAILED,
    )
