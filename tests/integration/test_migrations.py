"""Migrations go up and down, and leave the tables as the code describes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

import migrations

CONFIG = Config()
CONFIG.set_main_option("script_location", str(Path(migrations.__file__).parent))
REVISIONS = [script.revision for script in ScriptDirectory.from_config(CONFIG).walk_revisions()][::-1]


def run(engine: Engine, step: str, revision: str | None = None) -> None:
    with engine.connect() as connection:
        CONFIG.attributes["connection"] = connection
        getattr(command, step)(CONFIG, *([revision] if revision else []))
        connection.commit()


def test_the_tables_are_as_the_code_describes_them(engine: Engine) -> None:
    run(engine, "check")


@pytest.mark.parametrize("revision", REVISIONS)
def test_each_migration_goes_down_and_up_again(engine: Engine, revision: str) -> None:
    run(engine, "downgrade", "base")
    run(engine, "upgrade", revision)
    run(engine, "downgrade", "-1")
    run(engine, "upgrade", "head")
    run(engine, "check")


def test_going_down_leaves_nothing_behind(engine: Engine) -> None:
    run(engine, "downgrade", "base")
    assert set(inspect(engine).get_table_names()) <= {"alembic_version"}
    with engine.connect() as connection:
        functions = connection.execute(
            text("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace")
        ).all()
    assert functions == []
