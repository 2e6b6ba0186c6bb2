"""Weights & Biases by its own SDK, in processes of its own: offline for real, and servers that refuse or hang."""

from __future__ import annotations

import http.server
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from photos import data_uri, plain
from support import PUBLIC_URL, eventually
from wandb.proto.wandb_internal_pb2 import Record

from shared.database import Sessions
from shared.ids import parse_id
from shared.jobs.claim import Claim
from shared.jobs.end import end_job
from shared.objects import ObjectStore
from shared.settings import Settings
from shared.states import JobStatus
from shared.tables import Experiment
from shared.video import write_mp4
from worker.maintenance.track import track_experiments

KEY = "0123456789abcdef" * 3
MEASURES = {"flow_px": 0.5, "drift": None}


def photo(colour: str) -> str:
    return data_uri(plain(colour))


class Tracking:
    """Experiments that have finished, and the maintainer's duty, one round at a time."""

    def __init__(self, client: Any, sessions: Sessions, store: ObjectStore, settings: Settings, claim: Any) -> None:
        self.client, self.sessions, self.store, self.settings, self.claim = client, sessions, store, settings, claim

    def experiment(self, *statuses: JobStatus, values: tuple[int, ...] = (120, 180)) -> dict[str, Any]:
        """Two images at each value; its cells end as it is told, or succeed."""
        body = {
            "name": "exp_1",
            "model": "tiny",
            "images": [{"image_url": photo("red"), "name": "red"}, {"image_url": photo("blue"), "name": "blue"}],
            "grid": {"motion_bucket_id": values},
            "base": {"noise_aug_strength": 0.1, "seed": 42},
            "wandb": {"project": "films"},
        }
        answer = self.client.post("/v1/experiments", json=body)
        assert answer.status_code == 202, answer.json
        for status in [*statuses, *[JobStatus.SUCCEEDED] * (2 * len(values))][: 2 * len(values)]:
            self.end(self.claim(), status)
        made: dict[str, Any] = answer.json
        return made

    def end(self, claim: Claim, status: JobStatus = JobStatus.SUCCEEDED) -> None:
        video = {"key": "video.mp4", "size_bytes": 1, "sha256": "0" * 64, "media_type": "video/mp4"}
        result = {"video": video, "frames": [], "manifest": video, "num_frames": 2, "width": 64, "height": 64}
        succeeded = status is JobStatus.SUCCEEDED
        with self.sessions.begin() as session:
            ended = end_job(
                session,
                claim.holds(),
                status,
                public_url=PUBLIC_URL,
                reason=status,
                result={**result, "duration_s": 1.0} if succeeded else None,
                measures=MEASURES if succeeded else None,
                error_code=None if succeeded else "invalid_output",
            )
        assert ended is not None

    def track(self, stopping: threading.Event | None = None, **changes: Any) -> int:
        settings = self.settings.model_copy(update=changes)
        return track_experiments(self.sessions, self.store, settings, stopping or threading.Event())

    def read(self, experiment: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/v1/experiments/{experiment['id']}").json
        return found

    def row(self, experiment: dict[str, Any]) -> Experiment:
        with self.sessions() as session:
            return session.get_one(Experiment, parse_id("exp", experiment["id"]))

    @property
    def folder(self) -> Path:
        return Path(self.settings.wandb_dir)

    def runs(self) -> list[Path]:
        return sorted((self.folder / "wandb").glob("offline-run-*"), key=lambda path: Logged(path).run.display_name)

    def is_writing_second_run(self) -> bool:
        """The first one's scratch folder outlives its last file by a moment."""
        whole = [path.name for path in (self.folder / "wandb").glob("offline-run-*")]
        begun = [path.name.removeprefix(".partial-").rpartition("-")[0] for path in self.folder.glob(".partial-*")]
        return len(whole) == 1 and any(not whole[0].endswith(run_id) for run_id in begun)


@pytest.fixture
def tracking(
    client: Any, sessions: Sessions, store: ObjectStore, settings: Settings, claim: Callable[..., Any], tmp_path: Path
) -> Tracking:
    write_mp4(tmp_path / "video.mp4", bytes(2 * 64 * 64 * 3), width=64, height=64, fps=7)
    store.put("video.mp4", tmp_path / "video.mp4", media_type="video/mp4")
    changes = {"wandb_dir": str(tmp_path / "wandb"), "wandb_mode": "offline", "wandb_retry_s": 0.001}
    return Tracking(client, sessions, store, settings.model_copy(update=changes), claim)


class Logged:
    """What is in an offline run's file: LevelDB's log format behind a header of 7 bytes."""

    def __init__(self, folder: Path) -> None:
        [path] = folder.glob("*.wandb")
        data, at, part = path.read_bytes(), 7, b""
        self.records: list[Record] = []
        while at + 7 <= len(data):
            if (left := 32_768 - at % 32_768) < 7:
                at += left
                continue
            _, size, kind = struct.unpack_from("<IHB", data, at)
            part += data[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):  # whole, or the last piece
                self.records.append(Record.FromString(part))
                part = b""

    def of(self, kind: str) -> list[Any]:
        return [getattr(record, kind) for record in self.records if record.WhichOneof("record_type") == kind]

    @property
    def run(self) -> Any:
        return self.of("run")[0]

    @property
    def config(self) -> dict[str, Any]:
        return {update.key: json.loads(update.value_json) for update in self.run.config.update}

    @property
    def history(self) -> list[dict[str, Any]]:
        return [
            {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in step.item}
            for step in self.of("history")
        ]


@contextmanager
def wandb_server(status: int | None) -> Iterator[str]:
    """Answers everything with one status; none: it takes connections and never answers."""
    if status is None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        return

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            body = b'{"error": "user is not logged in"}'
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "worker.tracking.log_runs" in child.cmdline()]


def test_a_finished_experiment_is_logged_once_a_run_per_value_and_a_video_per_image(tracking: Tracking) -> None:
    experiment = tracking.experiment(JobStatus.FAILED)
    assert tracking.track() == 2
    assert tracking.track() == 0
    assert tracking.read(experiment)["wandb"] == {
        "project": "films",
        "entity": None,
        "status": "logged",
        "error": None,
        "urls": [],
    }
    first, second = (Logged(path) for path in tracking.runs())
    assert [logged.run.display_name for logged in (first, second)] == ["bucket_120", "bucket_180"]
    assert {(logged.run.run_group, logged.run.project) for logged in (first, second)} == {("exp_1", "films")}
    assert second.config["motion_bucket_id"] == 180
    assert (second.config["noise_aug_strength"], second.config["seed"], second.config["missing"]) == (0.1, 42, {})
    [step] = second.history
    assert {step["image_0._type"], step["image_1._type"]} == {"video-file"}
    assert {step[name] for name in ("image_0/flow_px", "image_1/flow_px", "flow_px")} == {0.5}
    assert first.config["missing"] == {"red": "failed"}
    [step] = first.history
    assert "image_1._type" in step
    assert not any(name.startswith("image_0") for name in step)


def test_what_was_cut_off_is_thrown_away_and_logged_anew(tracking: Tracking) -> None:
    experiment = tracking.experiment()
    stopping = threading.Event()
    round_ = threading.Thread(target=tracking.track, args=(stopping,))
    round_.start()
    try:
        # It is killed while it writes its second run.
        eventually(tracking.is_writing_second_run, every_s=0.005)
    finally:
        for child in children():
            child.kill()
        round_.join()
    before = tracking.read(experiment)["wandb"]
    assert before["status"] == "pending"
    assert "it ended with -9" in before["error"]
    assert tracking.track() == 1
    assert [Logged(path).run.display_name for path in tracking.runs()] == ["bucket_120", "bucket_180"]
    assert not list(tracking.folder.glob(".partial-*"))
    assert tracking.read(experiment)["wandb"]["status"] == "logged"
    assert tracking.read(experiment)["warnings"] == []


def test_a_key_that_is_wrong_is_a_warning_and_not_tried_again(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = tracking.experiment(values=(120,))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with wandb_server(401) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        assert tracking.track(wandb_mode="online") == 0
        assert tracking.track(wandb_mode="online") == 0
    found = tracking.read(experiment)
    assert (found["status"], found["counts"]["succeeded"], found["wandb"]["status"]) == ("finished", 2, "failed")
    assert "returned error 401" in found["wandb"]["error"]
    [warning] = found["warnings"]
    assert warning == f"not logged to Weights & Biases: {found['wandb']['error']}"
    assert tracking.row(experiment).wandb_tries == 1
    assert KEY not in caplog.text + warning


def test_a_server_that_hangs_costs_its_time_and_is_given_up_until_a_retry(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = tracking.experiment(values=(120,))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    limits = {"wandb_mode": "online", "wandb_timeout_s": 4.0, "wandb_max_tries": 2}
    with wandb_server(None) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        tracking.track(**limits)
        assert tracking.read(experiment)["wandb"]["status"] == "pending"
        assert len(tracking.read(experiment)["warnings"]) == 1
        tracking.track(**limits)
    found = tracking.read(experiment)
    assert (found["wandb"]["status"], found["wandb"]["error"]) == ("failed", "it took longer than 4 s")
    assert len(found["warnings"]) == 1
    assert not children()
    # Nothing failed that could run again, but the logging: that begins anew.
    assert tracking.client.post(f"/v1/experiments/{experiment['id']}/retry").status_code == 200
    assert tracking.track() == 1
    assert tracking.read(experiment)["wandb"]["status"] == "logged"
    assert tracking.read(experiment)["warnings"] == []
