"""`animatic keys`: the API keys of the tenant whose key is used."""

from __future__ import annotations

import click

from cli.client import Client, path_to
from cli.options import as_json, talks_to_api
from cli.output import note, print_json, print_table, printable, show_time
from shared.scopes import SCOPE_NAMES


@click.group()
def keys() -> None:
    """Create, list and revoke API keys.

    This needs a key with the scope admin, such as the one that `animatic up` prints.
    """


@keys.command()
@click.option("--name", metavar="NAME", required=True, help="Tells people what it is for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPE_NAMES),
    help="What the key may do; may be given several times; default: jobs:read and jobs:write.",
)
@click.option(
    "--expires-in-days", metavar="DAYS", type=click.FloatRange(min=0, min_open=True), help="Default: it never expires."
)
@as_json
@talks_to_api
def create(client: Client, name: str, scopes: tuple[str, ...], expires_in_days: float | None, as_json: bool) -> None:
    """Create a key. It is shown this once; the service keeps only its hash.

    \b
    animatic keys create --name render-farm
    animatic keys create --name dashboard --scope jobs:read --expires-in-days 90
    """
    body: dict[str, object] = {"name": name}
    if scopes:
        body["scopes"] = list(scopes)
    if expires_in_days is not None:
        body["expires_in_s"] = max(1, round(expires_in_days * 86_400))
    key = client.post(path_to("keys"), body)
    if as_json:
        print_json(key)
        return
    note(f"{key['id']} ({printable(key['name'])}); the key is shown this once:")
    click.echo(key["key"])


@keys.command("list")
@as_json
@talks_to_api
def list_keys(client: Client, as_json: bool) -> None:
    """List keys, newest first."""
    found = list(client.pages(path_to("keys"), {}, None))
    if as_json:
        print_json({"object": "list", "data": found})
        return
    print_table(
        ("ID", "NAME", "KEY", "SCOPES", "CREATED", "EXPIRES", "LAST USED", "REVOKED"),
        (
            (
                key["id"],
                key["name"],
                key.get("hint"),
                " ".join(key.get("scopes", ())),
                *(show_time(key.get(at)) for at in ("created_at", "expires_at", "last_used_at", "revoked_at")),
            )
            for key in found
        ),
    )


@keys.command()
@click.argument("key")
@as_json
@talks_to_api
def revoke(client: Client, key: str, as_json: bool) -> None:
    """Revoke KEY, the id that `animatic keys list` shows. The key is refused from then on.

    \b
    animatic keys revoke key_0192f0c1d7a27c3e8f10aa55bb66cc77
    """
    client.delete(path_to("keys", key))
    if as_json:
        print_json({"id": key, "revoked": True})
    else:
        click.echo(f"{key} revoked")
