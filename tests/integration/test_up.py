"""`animatic up` and `animatic demo` as a user runs them: real processes, real signals."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from support import alive, eventually

from cli.engines import free_port
from shared.exit_codes import ExitCode
from shared.video import probe_mp4

READY_LIMIT_S = 180.0


class Up:
    """`animatic up` on one data folder, with the test double as its model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()

    def start(self) -> dict[str, str]:
        argv = ["up", "--port", str(self.port), "--data-dir", str(self.folder), "--json", "--model", "double"]
        self.process = subprocess.Popen(
            animatic(*argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
        # Ready is when it has printed; or it has ended, and its standard error says why.
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        text = ""
        for line in self.process.stdout:
            text += line
            if line == "}\n":
                break
        assert text, self.process.stderr.read()
        self.family = psutil.Process(self.process.pid).children(recursive=True)
        ready: dict[str, str] = json.loads(text)
        return ready

    def end(self, number: signal.Signals) -> int:
        self.family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(number)
        self.process.communicate(timeout=60)
        return self.process.returncode

    def cli(self, *arguments: str) -> Any:
        done = subprocess.run(
            [*animatic(*arguments), "--data-dir", str(self.folder), "--json"],
            capture_output=True,
            text=True,
            check=False,
            env=environment(),
            timeout=READY_LIMIT_S,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users may pass, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="up-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def up(folder: Path) -> Iterator[Up]:
    running = Up(folder / "data")
    yield running
    if running.process.poll() is None:
        running.end(signal.SIGKILL)
    eventually(lambda: not alive(running.family), within_s=30)


@pytest.fixture
def photo(folder: Path) -> Path:
    path = folder / "photo.png"
    Image.linear_gradient("L").resize((320, 200)).convert("RGB").save(path)
    return path


def test_a_job_that_kill_9_of_up_interrupts_finishes_after_the_next_start(up: Up, photo: Path, folder: Path) -> None:
    ready = up.start()
    key_file = up.folder / "api-key"
    assert key_file.read_text().strip() == ready["api_key"]
    assert key_file.stat().st_mode & 0o777 == 0o600
    job = up.cli("submit", str(photo), "--num-inference-steps", "100")
    eventually(lambda: up.cli("show", job["id"])["status"] == "running", within_s=60)

    up.end(signal.SIGKILL)
    eventually(lambda: not alive(up.family), within_s=30)

    assert up.start() == ready
    done = up.cli("watch", job["id"])
    assert (done["status"], done["attempt"]) == ("succeeded", 2)
    written = up.cli("download", job["id"], "-o", str(folder / "out.mp4"))
    video = probe_mp4(Path(written["video"]))
    assert (video.num_frames, video.width, video.height) == (14, 256, 128)

    assert up.end(signal.SIGINT) == 130
    assert not alive(up.family)


def test_a_second_up_on_the_same_data_is_refused(up: Up) -> None:
    up.start()
    done = run("up", "--port", "0", "--data-dir", str(up.folder))
    assert done.returncode == ExitCode.UNAVAILABLE
    assert f"another `animatic up` (pid {up.process.pid}) runs on {up.folder}" in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_the_network_is_not_let_in_without_a_key(folder: Path, host: str) -> None:
    done = run("up", "--host", host, "--port", "0", "--data-dir", str(folder / "data"))
    assert done.returncode == ExitCode.CONFIG
    assert f"error: listening on {host} opens the service to the network, and there is no API key yet" in done.stderr
    assert "starting" not in done.stderr
    assert not (folder / "data").exists()


def test_without_a_word_only_this_machine_is_listened_to(up: Up) -> None:
    up.start()
    listening = {
        connection.laddr.ip
        for process in [psutil.Process(up.process.pid), *up.family]
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_a_port_that_is_taken_is_refused_before_anything_starts(folder: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        done = run("up", "--port", str(port), "--data-dir", str(folder / "data"))
    assert done.returncode == ExitCode.UNAVAILABLE
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr
    assert "starting" not in done.stderr


def test_a_worker_that_cannot_start_ends_up_with_its_sentence_and_code(folder: Path) -> None:
    (folder / "empty").mkdir()
    done = run("up", "--port", "0", "--data-dir", str(folder / "data"), "--model", str(folder / "empty"))
    assert done.returncode == ExitCode.MODEL_INVALID
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert str(folder / "empty") in last


def test_a_model_whose_directory_is_missing_is_told_before_anything_starts(folder: Path) -> None:
    done = run("up", "--port", "0", "--data-dir", str(folder / "data"), "--model", str(folder / "no-model"))
    assert done.returncode == ExitCode.MODEL_UNAVAILABLE
    (error,) = done.stderr.splitlines()
    assert error.startswith(f"error: model no-model: there is no directory {folder / 'no-model'};")
    assert not (folder / "data").exists()


@pytest.mark.parametrize("command", ["up", "demo"])
def test_a_model_that_was_not_pulled_is_told_before_anything_starts(
    folder: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(folder / "hub"))
    monkeypatch.setenv("TMPDIR", str(folder))
    Image.new("RGB", (64, 64)).save(folder / "photo.png")
    arguments = (
        [str(folder / "photo.png")] if command == "demo" else ["--port", "0", "--data-dir", str(folder / "data")]
    )
    done = run(command, *arguments, "--model", "svd-xt")
    assert done.returncode == ExitCode.MODEL_UNAVAILABLE
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: model svd-xt is not on this machine: run `animatic models pull svd-xt`")
    assert "starting" not in done.stderr
    assert {path.name for path in folder.iterdir()} <= {"photo.png", "hub"}  # nothing was made


def test_a_device_that_is_not_there_is_told_before_anything_starts(folder: Path) -> None:
    done = run("up", "--port", "0", "--data-dir", str(folder / "data"), ANIMATIC_DEVICE="cuda:63")
    assert done.returncode == ExitCode.DEVICE_UNAVAILABLE
    (error,) = done.stderr.splitlines()
    assert error.startswith("error: cuda:63 was asked for, but ")
    assert not (folder / "data").exists()


def test_a_photo_that_the_service_refuses_leaves_no_logs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(folder))
    Image.new("RGB", (20, 20)).save(folder / "photo.png")
    done = run("demo", str(folder / "photo.png"))
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.splitlines()[-1] == "error: image must have sides of at least 32 px, got 20×20"
    assert not list(folder.glob("animatic-demo-*"))


def maintains(process: psutil.Process) -> bool:
    try:
        return "worker.maintain" in process.cmdline()
    except psutil.NoSuchProcess:  # a short-lived one, such as an image decoder that had its turn
        return False


def test_a_crashed_server_is_started_again(up: Up) -> None:
    up.start()
    maintainer = next(process for process in up.family if maintains(process))
    maintainer.kill()

    def is_back() -> bool:
        family = alive(psutil.Process(up.process.pid).children(recursive=True))
        return any(maintains(process) for process in family if process != maintainer)

    eventually(is_back, within_s=15)
    assert up.end(signal.SIGTERM) == 143


def test_the_end_of_an_engine_ends_everything_with_a_sentence(up: Up) -> None:
    up.start()
    redis = next(process for process in up.family if process.name() in ("redis-server", "valkey-server"))
    redis.kill()
    _, errors = up.process.communicate(timeout=60)
    assert up.process.returncode == ExitCode.UNAVAILABLE
    assert "error: Redis ended unexpectedly, by signal 9" in errors
    assert not alive(up.family)


def test_demo_leaves_a_playable_video_and_nothing_else(photo: Path, folder: Path) -> None:
    output = folder / "demo.mp4"
    done = run("demo", str(photo), "-o", str(output))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"video: {output}"
    assert "tiny makes videos of 256×128: the photo, 320×200, is cropped to that" in done.stderr
    assert "webhook received and verified" in done.stderr
    assert re.search(r"on the worker: .*denoise \d+\.\d s", done.stderr)
    video = probe_mp4(output)
    assert (video.num_frames, video.width, video.height) == (14, 256, 128)
    assert sorted(path.name for path in folder.iterdir()) == ["demo.mp4", "photo.png"]


@pytest.mark.parametrize("part", [0, 0.5])
def test_demo_of_what_is_no_whole_image_says_so_before_it_starts_anything(
    photo: Path, folder: Path, part: float
) -> None:
    data = photo.read_bytes()
    damaged = folder / "damaged.png"
    damaged.write_bytes(data[: int(len(data) * part)])
    done = run("demo", str(damaged), "-o", str(folder / "demo.mp4"))
    assert done.returncode == ExitCode.USAGE
    (error,) = done.stderr.splitlines()
    assert error.startswith(f"error: {damaged} ")
    assert not (folder / "demo.mp4").exists()


def animatic(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cli", *arguments]


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    env = {**environment(), **settings}
    return subprocess.run(
        animatic(*arguments), check=False, capture_output=True, text=True, env=env, timeout=READY_LIMIT_S
    )


def environment() -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ANIMATIC_")}
    # A lost attempt should not take half a minute to be noticed here.
    return {**clean, "ANIMATIC_HEARTBEAT_S": "1", "ANIMATIC_LEASE_S": "5", "ANIMATIC_MAINTAIN_INTERVAL_S": "1"}
