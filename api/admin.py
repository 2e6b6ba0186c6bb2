"""`python -m api.admin`: administration on the server itself, straight on the database."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from alembic import command
from alembic.config import Config
from sqlalchemy import update
from sqlalchemy.orm import Session

import migrations
from api.auth import DEFAULT_TENANT, create_key, ensure_tenant
from shared.database import make_engine, make_sessions, translated_errors
from shared.environment import load_settings
from shared.errors import AnimaticError, StartupError
from shared.exit_codes import ExitCode
from shared.scopes import SCOPE_NAMES, Scope
from shared.tables import Tenant


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
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPE_NAMES),
    default=SCOPE_NAMES,
    help="What the key may do; may be given several times. Default: everything.",
)
@click.option("--expires-in-days", type=click.FloatRange(min=0, min_open=True), help="Default: never.")
def create_api_key(tenant: str, name: str, scopes: tuple[str, ...], expires_in_days: float | None) -> None:
    """Print a new API key. It cannot be shown again."""
    with _session() as session:
        _, key = create_key(
            session,
            ensure_tenant(session, tenant),
            name,
            scopes=[Scope(scope) for scope in scopes],
            expires_in_s=None if expires_in_days is None else expires_in_days * 86_400,
        )
    click.echo(key)


@admin.command()
@click.option("--tenant", default=DEFAULT_TENANT, show_default=True, help="Made if it does not exist.")
@click.option("--queued-jobs-max", type=click.IntRange(min=0), help="Default: ANIMATIC_QUEUED_JOBS_MAX.")
@click.option("--storage-bytes-max", type=click.IntRange(min=0), help="Default: ANIMATIC_STORAGE_BYTES_MAX.")
@click.option("--priority-max", type=click.IntRange(0, 100), help="Default: ANIMATIC_PRIORITY_MAX.")
def set_quota(
    tenant: str, queued_jobs_max: int | None, storage_bytes_max: int | None, priority_max: int | None
) -> None:
    """Set a tenant's own quotas; one that is not given follows the settings again."""
    with _session() as session:
        session.execute(
            update(Tenant)
            .where(Tenant.id == ensure_tenant(session, tenant))
            .values(queued_jobs_max=queued_jobs_max, storage_bytes_max=storage_bytes_max, priority_max=priority_max)
        )


@contextmanager
def _session() -> Iterator[Session]:
    engine = make_engine(load_settings(), application="animatic-admin")
    with translated_errors(), make_sessions(engine).begin() as session:
        yield session
    engine.dispose()


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
