"""`python -m worker.health worker|maintainer`: is the one in this container at work? Exit code 0: yes.

For health checks of containers. A process that has died needs no check; this one finds those that are alive and do
nothing. Needs Postgres, as do those that it checks.
"""

from __future__ import annotations

import socket
import sys
from datetime import timedelta

import click
from sqlalchemy import Engine, select, text

from shared.database import db_now, make_engine, make_sessions, translated_errors
from shared.environment import load_settings
from shared.errors import AnimaticError, StartupError
from shared.exit_codes import ExitCode
from shared.settings import Settings
from shared.tables import Worker

#: a maintainer that is well asks the database something every second.
_MAINTAINER_SILENCE_S = 60

_MAINTAINER_AT_WORK = text(
    "SELECT 1 FROM pg_stat_activity WHERE application_name = 'animatic-maintainer' "
    "AND client_addr IS NOT DISTINCT FROM inet_client_addr() "
    "AND clock_timestamp() - state_change < make_interval(secs => :silence_s) LIMIT 1"
)


def worker_is_ready(engine: Engine, settings: Settings) -> bool:
    """Whether a worker of this host has its model loaded and has said so within a lease."""
    seen = Worker.last_seen_at > db_now() - timedelta(seconds=settings.lease_s)
    ready = select(Worker.id).where(Worker.hostname == socket.gethostname(), Worker.ready, seen)
    with translated_errors(), make_sessions(engine)() as session:
        return session.scalars(ready).first() is not None


def maintainer_is_at_work(engine: Engine) -> bool:
    """Whether a maintainer has used a connection from this address within the last minute."""
    with translated_errors(), make_sessions(engine)() as session:
        return session.execute(_MAINTAINER_AT_WORK, {"silence_s": _MAINTAINER_SILENCE_S}).first() is not None


@click.command()
@click.argument("role", type=click.Choice(["worker", "maintainer"]))
def main(role: str) -> None:
    """Exit with 0 if the worker, or the maintainer, of this host is at work."""
    try:
        settings = load_settings()
        engine = make_engine(settings, pool_size=1, application="animatic-health")
        well = worker_is_ready(engine, settings) if role == "worker" else maintainer_is_at_work(engine)
    except AnimaticError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code if isinstance(error, StartupError) else ExitCode.UNAVAILABLE)
    if not well:
        click.echo(f"error: no {role} of this host is at work", err=True)
        sys.exit(ExitCode.UNAVAILABLE)


if __name__ == "__main__":
    main()
