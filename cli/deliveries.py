"""Commands about webhooks."""

from __future__ import annotations

import click

from cli.client import Client, path_to
from cli.options import as_json, talks_to_api
from cli.output import print_json, print_table, show_time


@click.command()
@click.argument("name", metavar="JOB|EXPERIMENT")
@as_json
@talks_to_api
def deliveries(client: Client, name: str, as_json: bool) -> None:
    """List the webhook deliveries of a job or an experiment.

    \b
    animatic deliveries job_0192f0c1d7a27c3e8f10aa55bb66cc77
    """
    kind = "experiments" if name.startswith("exp_") else "jobs"
    found = client.get(path_to(kind, name, "deliveries"))["data"]
    if as_json:
        print_json({"object": "list", "data": found})
        return
    print_table(
        ("EVENT", "STATUS", "TRIES", "LAST ANSWER", "NEXT TRY", "URL"),
        (
            (
                delivery["id"],
                delivery["status"],
                delivery["tries"],
                delivery["last_status_code"] or delivery["last_error"],
                show_time(delivery["next_try_at"]),
                delivery["url"],
            )
            for delivery in found
        ),
    )


@click.command()
@click.argument("event")
@as_json
@talks_to_api
def redeliver(client: Client, event: str, as_json: bool) -> None:
    """Send a webhook again, with the same id and body. EVENT is its id, which `animatic deliveries` shows.

    \b
    animatic redeliver evt_0192f0c1d7a27c3e8f10aa55bb66cc77
    """
    delivery = client.post(path_to("deliveries", event, "redeliver"))
    if as_json:
        print_json(delivery)
    else:
        click.echo(f"{delivery['id']} {delivery['status']}")
