"""Alembic's entry: runs the migrations on the database of the settings, or on a connection handed in."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from shared.database import make_engine
from shared.environment import load_settings
from shared.tables import Base


def _migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
    with context.begin_transaction():
        # Several hosts may migrate at once: the second waits, then finds nothing to do.
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7203491)")
        context.run_migrations()


handed_in = context.config.attributes.get("connection")
if handed_in is not None:
    _migrate(handed_in)
else:
    engine = make_engine(load_settings(), application="animatic-migrate")
    with engine.connect() as connection:
        _migrate(connection)
        connection.commit()
    engine.dispose()
