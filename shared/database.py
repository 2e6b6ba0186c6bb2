"""Postgres: the engine, the session factory, the clock, and the translation of driver errors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, ScalarSelect, create_engine, exc, func, select
from sqlalchemy.orm import Session, sessionmaker

from shared.errors import DatabaseError
from shared.settings import Settings

log = logging.getLogger(__name__)

Sessions = sessionmaker[Session]


def make_engine(settings: Settings, *, pool_size: int = 5, application: str = "animatic") -> Engine:
    """A lazy connection pool: nothing is opened here.

    A server that went away is noticed by TCP keepalive within about 25 s, a statement that hangs after 30 s.
    """
    url = settings.database_url.get_secret_value()
    scheme, _, rest = url.partition("://")
    if scheme in ("postgres", "postgresql"):
        url = f"postgresql+psycopg://{rest}"
    return create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=5,
        pool_pre_ping=True,
        hide_parameters=True,  # they may hold secrets, and errors are logged
        connect_args={
            "connect_timeout": 5,
            "application_name": application,
            "options": "-c statement_timeout=30000 -c idle_in_transaction_session_timeout=60000",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 25_000,
        },
    )


def make_sessions(engine: Engine) -> Sessions:
    return sessionmaker(engine, expire_on_commit=False)


def db_now() -> ScalarSelect[object]:
    """The database's clock, now.

    Not `now()`, which is the start of the transaction; and as a sub-select, since a bare `clock_timestamp()` is
    volatile and cannot be an index condition.
    """
    return select(func.clock_timestamp()).scalar_subquery()


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn "the database is not answering" into our own retryable error; leave programming errors alone.

    Raises:
        DatabaseError: the connection failed, was cut, or the server is starting, stopping or overloaded.
    """
    try:
        yield
    except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
        log.warning("Postgres: %s", str(getattr(error, "orig", error)).partition("\n")[0])
        raise DatabaseError("Postgres is not answering") from error
    except exc.DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise DatabaseError("the connection to Postgres was cut") from error
