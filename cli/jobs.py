"""Commands about jobs that have been submitted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from cli.client import Client, path_to
from cli.options import as_json, talks_to_api, timeout_option
from cli.output import (
    Job,
    describe_job,
    is_interactive,
    print_json,
    print_table,
    printable,
    require_success,
    show_progress,
    show_time,
)
from shared.states import JobStatus


@click.command(epilog="Exit code 1 if the job fails or is canceled, 5 if --timeout passes.")
@click.argument("job")
@timeout_option("Give up after S seconds; the job goes on.")
@as_json
@talks_to_api
def watch(client: Client, job: str, timeout: float | None, as_json: bool) -> None:
    """Show a job's progress until it ends.

    \b
    animatic watch job_0192f0c1d7a27c3e8f10aa55bb66cc77
    """
    from cli.follow import follow

    last = show_progress(_warn_if_waiting(client, follow(client, job, timeout_s=timeout)))
    if as_json:
        print_json(last)
    require_success(last)
    if not as_json:
        click.echo(f"{last['id']} succeeded")


def _warn_if_waiting(client: Client, states: Iterator[Job]) -> Iterator[Job]:
    """Pass on a job's states; say so if it begins by waiting for a worker that is not there."""
    from cli.submit import warn_if_unserved

    for number, job in enumerate(states):
        if number == 0 and job["status"] == "queued":
            warn_if_unserved(client, job["model"], job["id"])
        yield job


@click.command("list")
@click.option("--status", type=click.Choice([status.value for status in JobStatus]), help="Only jobs with this status.")
@click.option("--model", metavar="NAME", help="Only jobs of this model.")
@click.option("--label", metavar="NAME=VALUE", help="Only jobs with this label.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most this many.")
@click.option("--all", "everything", is_flag=True, help="All of them, without a limit.")
@as_json
@talks_to_api
def list_jobs(
    client: Client,
    status: str | None,
    model: str | None,
    label: str | None,
    limit: int,
    everything: bool,
    as_json: bool,
) -> None:
    """List jobs, newest first.

    \b
    animatic list --status running
    animatic list --all --json
    """
    filters = {"status": status, "model": model, "label": label}
    query = {name: value for name, value in filters.items() if value is not None}
    jobs = list(client.pages(path_to("jobs"), query, None if everything else limit))
    if as_json:
        print_json({"object": "list", "data": jobs})
        return
    print_table(
        ("ID", "STATUS", "MODEL", "CREATED", "IMAGE", "LABELS"),
        (
            (
                job["id"],
                job["status"],
                job["model"],
                show_time(job["created_at"]),
                describe_job(job),
                _show_labels(job["labels"]),
            )
            for job in jobs
        ),
    )


@click.command()
@click.argument("job")
@as_json
@talks_to_api
def show(client: Client, job: str, as_json: bool) -> None:
    """Show one job: status, parameters, labels, result and measures.

    \b
    animatic show job_0192f0c1d7a27c3e8f10aa55bb66cc77
    """
    found = client.get(path_to("jobs", job))
    if as_json:
        print_json(found)
        return
    for name, value in _flatten(found):
        click.echo(printable(f"{name}: {value}"))


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB…")
@as_json
@talks_to_api
def cancel(client: Client, jobs: tuple[str, ...], as_json: bool) -> None:
    """Cancel jobs. A running one stops within a denoising step.

    \b
    animatic cancel job_0192f0c1d7a27c3e8f10aa55bb66cc77
    """
    canceled = []
    for name in jobs:
        job = client.post(path_to("jobs", name, "cancel"))
        canceled.append(job)
        if not as_json:
            click.echo(f"{job['id']} {'is stopping' if job['status'] == 'running' else job['status']}")
    if as_json:
        print_json({"object": "list", "data": canceled})


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB…")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@talks_to_api
def delete(client: Client, jobs: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Delete jobs with their images and videos; running ones are canceled first.

    In a terminal it asks first.

    \b
    animatic delete job_0192f0c1d7a27c3e8f10aa55bb66cc77
    """
    delete_each(client, "jobs", jobs, yes=yes, as_json=as_json)


def delete_each(client: Client, kind: str, ids: Sequence[str], *, yes: bool, as_json: bool) -> None:
    """Delete resources one after the other, after asking in a terminal.

    Args:
        kind: as in the API's paths, such as `jobs`.
        yes: do not ask.
    """
    if not yes and is_interactive():
        click.confirm(f"Delete {', '.join(ids)} for good?", abort=True, err=True)
    for one in ids:
        client.delete(path_to(kind, one))
        if not as_json:
            click.echo(f"{one} deleted")
    if as_json:
        print_json({"object": "list", "data": [{"id": one, "deleted": True} for one in ids]})


def _show_labels(labels: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in labels.items()) or "-"


def _flatten(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    lines: list[tuple[str, Any]] = []
    for name, item in value.items():
        if isinstance(item, dict):
            lines += _flatten(item, f"{prefix}{name}.")
        elif isinstance(item, list):
            for number, part in enumerate(item):
                lines += _flatten(part if isinstance(part, dict) else {"": part}, f"{prefix}{name}[{number}].")
        elif item is not None:
            lines.append(((prefix + name).rstrip("."), item))
    return lines
