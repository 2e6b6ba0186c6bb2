"""Folders of a process are gone when it has ended, at the latest when the next one starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.scratch import remove_left_folders, scratch_folder

_HOLD = """
import sys, time
from shared.scratch import scratch_folder
with scratch_folder("test") as folder:
    (folder / "video.mp4").write_bytes(b"0" * 1000)
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def holder(temporary: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that has a folder, and the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD], stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(temporary)}
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_a_folder_ends_with_its_block_whatever_happens_there(temporary: Path) -> None:
    def fail() -> None:
        with scratch_folder("test") as folder:
            (folder / "file").touch()
            assert folder.parent == temporary
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not(
    holder: tuple[subprocess.Popen[str], Path],
) -> None:
    process, folder = holder
    remove_left_folders()
    assert (folder / "video.mp4").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    with scratch_folder("ours") as ours:
        remove_left_folders()
        assert (folder.exists(), ours.exists()) == (False, True)


@pytest.mark.parametrize("module", ["api.serve", "worker"])
def test_a_server_that_is_stopped_while_it_starts_leaves_nothing(temporary: Path, module: str) -> None:
    settings = {
        "ANIMATIC_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "ANIMATIC_REDIS_URL": "redis://127.0.0.1:1/0",
        "ANIMATIC_OBJECT_STORE": str(temporary / "objects"),
    }
    with subprocess.Popen(
        [sys.executable, "-P", "-m", module], env={**os.environ, **settings, "TMPDIR": str(temporary)}
    ) as process:
        while not list(temporary.glob("animatic-scratch-*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)  # long before gunicorn or Celery have handlers of their own
        assert process.wait(30) == 128 + signal.SIGTERM
    assert not list(temporary.glob("animatic-scratch-*"))


class _ChildLeaves(Exception):  # noqa: N818
    """Takes a forked child out of its parent's block."""


def test_a_forked_child_leaves_the_folder_to_its_parent() -> None:
    try:
        with scratch_folder("test") as folder:
            child = os.fork()
            if child == 0:
                raise _ChildLeaves
            assert os.waitpid(child, 0)[1] == 0
            assert folder.exists()
    except _ChildLeaves:
        os._exit(0)


def test_links_and_what_others_put_there_are_left_alone(temporary: Path) -> None:
    kept = temporary / "kept"
    kept.mkdir()
    (temporary / "animatic-scratch-link").symlink_to(kept)
    (temporary / "animatic-scratch-file").touch()
    (temporary / "animatic-other").mkdir()
    remove_left_folders()
    assert {path.name for path in temporary.iterdir()} == {
        "kept", "animatic-scratch-link", "animatic-scratch-file", "animatic-other",
    }  # fmt: skip


def test_a_folder_that_is_removed_before_it_is_locked_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made, make = [], tempfile.mkdtemp

    def make_and_lose_the_first(prefix: str) -> str:
        made.append(make(prefix=prefix))
        if len(made) == 1:
            remove_left_folders()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_lose_the_first)
    with scratch_folder("test") as folder:
        assert len(made) == 2
        assert folder == Path(made[1])
        assert folder.exists()
