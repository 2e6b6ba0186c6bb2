"""Migrations, as far as that goes without a database."""

from __future__ import annotations

from pathlib import Path

from alembic.script import ScriptDirectory

import migrations


def test_migrations_stand_in_one_line_with_their_numbers() -> None:
    script = ScriptDirectory(str(Path(migrations.__file__).parent))
    (head,) = script.get_heads()
    revisions = [revision.revision for revision in script.walk_revisions()]
    assert revisions == [f"{number:04}" for number in range(int(head), 0, -1)]
