"""What may import what, as far as import-linter cannot say it."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["api.wsgi", "api.admin", "worker.maintain", "worker.__main__", "cli.main"])
def test_importing_an_entry_point_leaves_alone_what_takes_long_and_may_not_be_needed(module: str) -> None:
    script = f"import sys, {module}; print([name for name in ('torch', 'diffusers', 'boto3') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_command_line_imports_neither_database_nor_broker() -> None:
    script = "import sys, cli.main; print([n for n in ('sqlalchemy', 'celery', 'boto3', 'flask') if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
