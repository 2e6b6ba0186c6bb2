"""`python -m api.admin`: administration on the server itself, straight on the database."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from alembic import command
from alembic.config import Config

import migrations
from api.auth import DEFAULT_TENANT, create_key, ensure_tenant
from shared.database import make_engine, make_sessions, translated_errors
from shared.errors import AnimaticError, StartupError
from shared.exit_codes import ExitCode
from shared.settings import load_settings


@click.group(help="Administer this installation: needs ANIMATIC_DATABASE_URL, not the API.")
def admin() -> None:
    pass


@admin.command()
@click.option("--revision", default="head", show_default=True, help="Revision to go up to.")
def migrate(revision: str) -> None:
    """Bring the database's tables up to date. Safe to run from several hosts at once."""
    load_settings()
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    with translated_errors():
        command.upgrade(config, revision)


@admin.command()
@click.option("--tenant", default=DEFAULT_TENANT, show_default=True, help="Made if it does not exist.")
@click.option("--name", default="admin", show_default=True, help="For people, to tell keys apart.")
def create_api_key(tenant: str, name: str) -> None:
    """Print a new API key. It cannot be shown again."""
    engine = make_engine(load_settings(), application="animatic-admin")
    with translated_errors(), make_sessions(engine).begin() as session:
        _, key = create_key(session, ensure_tenant(session, tenant), name)
    click.echo(key)


def main() -> None:
    try:
        admin(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except AnimaticError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code if isinstance(error, StartupError) else ExitCode.UNAVAILABLE)


if __name__ == "__main__":
    main()
