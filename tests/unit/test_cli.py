"""The `animatic` command against a small HTTP server that plays the API."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from cli.follow import Event, parse_events
from cli.main import _COMMANDS, cli
from cli.place import usual_data_dir
from cli.receiver import Message
from cli.up import example
from shared.exit_codes import ExitCode
from shared.params import GenerationOptions

KEY = "ak_test"
VIDEO = b"not really a video" * 10_000


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, bytes]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = BytesParser().parsebytes(head + self.body).get_payload()
        assert isinstance(parts, list)
        return {
            str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True) for part in parts
        }


@dataclass
class Answer:
    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


#: an answer, or a function of the request; a list: one after the other, the last one again and again.
Route = Answer | Callable[[Request], Answer] | list[Answer]


class FakeApi:
    def __init__(self) -> None:
        self.routes: dict[tuple[str, str], Route] = {("GET", "/v1/models/tiny"): Answer({"id": "tiny", "workers": 1})}
        self.requests: list[Request] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = Request(self.command, self.path, dict(self.headers), body)
                api.requests.append(request)
                answer = api.answer(request)
                data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for name, value in {"Content-Length": str(len(data)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = handle_any  # noqa: N815  # the base class's names

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: Request) -> Answer:
        route = self.routes.get((request.method, request.path.partition("?")[0]))
        if route is None:
            return problem(404, "not_found", f"there is no {request.path}")
        if isinstance(route, list):
            return route.pop(0) if len(route) > 1 else route[0]
        return route if isinstance(route, Answer) else route(request)


@pytest.fixture
def api() -> Iterator[FakeApi]:
    fake = FakeApi()
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()
    thread.join()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"jpeg")
    return path


def run(api: FakeApi | None, *arguments: str | Path, **env: str | None) -> Result:
    base: dict[str, str | None] = {
        "ANIMATIC_URL": api.url if api else None,
        "ANIMATIC_API_KEY": KEY,
        "ANIMATIC_DATA_DIR": None,
    }
    return CliRunner().invoke(cli, [*map(str, arguments)], env={**base, **env}, prog_name="animatic")


def problem(status: int, code: str, detail: str, **more: Any) -> Answer:
    body = {"type": f"urn:animatic:problem:{code}", "title": "?", "status": status, "detail": detail, "code": code}
    return Answer({**body, **more}, status, {"Content-Type": "application/problem+json"})


def job(status: str = "queued", **more: Any) -> dict[str, Any]:
    return {
        "id": "job_1",
        "object": "job",
        "status": status,
        "model": "tiny",
        "params": {},
        "image_name": None,
        "grid_values": None,
        "labels": {},
        "warnings": [],
        "progress": None,
        "queue_position": None,
        "error": None,
        "result": None,
        "created_at": "2026-01-02T03:04:05Z",
        **more,
    }


def result(base: str, *, sha256: str | None = None) -> dict[str, Any]:
    digest = sha256 or hashlib.sha256(VIDEO).hexdigest()
    video = {
        "url": f"{base}/v1/jobs/job_1/video",
        "size_bytes": len(VIDEO),
        "sha256": digest,
        "media_type": "video/mp4",
    }
    frame = {**video, "url": f"{base}/v1/jobs/job_1/frames/0", "media_type": "image/png"}
    return {"video": video, "frames": [frame], "manifest": {**video, "url": f"{base}/v1/jobs/job_1/manifest"}}


def sse(*jobs: dict[str, Any]) -> bytes:
    return b"retry: 10\n\n" + b"".join(
        f"event: job\nid: {n}\ndata: {json.dumps(j)}\n\n".encode() for n, j in enumerate(jobs)
    )


# --- the command line itself


def every_command() -> Iterator[tuple[str, ...]]:
    context = click.Context(cli)
    for name in _COMMANDS:
        command = cli.get_command(context, name)
        yield (name,)
        if isinstance(command, click.Group):
            yield from ((name, part) for part in command.list_commands(context))


@pytest.mark.parametrize("names", [(), *every_command()], ids=" ".join)
def test_every_command_has_a_help_that_reads_well(names: tuple[str, ...]) -> None:
    done = run(None, *names, "--help")
    assert done.exit_code == 0
    assert done.stdout.startswith(" ".join(("Usage: animatic", *names)))
    # click puts the default, the range and the variable of an option into brackets; there should be no others within.
    assert not re.search(r"\[[^\]]*[\[(]", done.stdout)


def test_help_lists_every_command_and_exit_code() -> None:
    text = run(None, "--help").stdout
    assert all(f"\n  {name} " in text for name in _COMMANDS)
    assert all(f" {code.value} " in text for code in ExitCode)


def test_help_imports_neither_pydantic_nor_urllib3_nor_rich() -> None:
    script = """
import sys
from cli.main import cli
try:
    cli.main(["--help"])
except SystemExit:
    pass
print(sorted({"pydantic", "urllib3", "rich"} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_every_generation_parameter_is_an_option_and_is_sent(api: FakeApi, photo: Path) -> None:
    api.routes["POST", "/v1/jobs"] = Answer(job(), 202)
    values = dict.fromkeys(GenerationOptions.model_fields, "1")
    values |= {"width": "64", "height": "128", "num_frames": "2", "resize_mode": "pad", "frames_format": "png"}
    values |= dict.fromkeys(("noise_aug_strength", "min_guidance_scale", "max_guidance_scale"), "0.5")
    options = [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", value)]
    done = run(api, "submit", photo, *options)
    assert done.exit_code == 0, done.stderr
    sent = api.requests[0].form
    assert {name: sent[name].decode() for name in values} == values


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("frobnicate",), "No such command 'frobnicate'"),
        (("submit",), "Missing argument 'IMAGE'"),
        (("submit", "/nowhere.jpg"), "/nowhere.jpg cannot be read"),
        (("submit", "http://x/y.jpg", "--fps", "many"), "'many' is not a valid integer"),
        (("submit", "http://x/y.jpg", "--label", "shot"), "a label must be NAME=VALUE, got 'shot'"),
        (("list", "--status", "done"), "'done' is not one of"),
        (("completion",), "Choose from: bash, zsh, fish"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    api: FakeApi, arguments: tuple[str, ...], sentence: str
) -> None:
    done = run(api, *arguments)
    assert done.exit_code == ExitCode.USAGE
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert not api.requests


def test_the_command_that_up_shows_finds_its_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANIMATIC_DATA_DIR", str(tmp_path))
    assert example(usual_data_dir()).endswith(" submit photo.jpg --wait -o video.mp4")
    assert example(tmp_path).endswith(f" -o video.mp4 --data-dir {tmp_path}")
    assert example(tmp_path / "my data").endswith(f" -o video.mp4 --data-dir '{tmp_path}/my data'")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_shells_script(shell: str) -> None:
    done = run(None, "completion", shell)
    assert done.exit_code == 0
    assert "_ANIMATIC_COMPLETE" in done.stdout


def test_completion_knows_the_commands() -> None:
    env = {**os.environ, "_ANIMATIC_COMPLETE": "bash_complete", "COMP_WORDS": "animatic subm", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-m", "cli"], env=env, capture_output=True, text=True, check=False)
    assert "submit" in done.stdout


# --- jobs in a list


def test_a_list_tells_jobs_apart_by_image_and_swept_values(api: FakeApi) -> None:
    cell = job(
        id="job_2", image_name="ro\x1bcket.jpg", grid_values={"motion_bucket_id": 180, "noise_aug_strength": 0.02}
    )
    page = {"object": "list", "data": [job(), cell], "last_id": "job_2", "has_more": False}
    api.routes["GET", "/v1/jobs"] = Answer(page)
    first, second = run(api, "list").stdout.splitlines()[1:]
    assert first.split()[-2:] == ["-", "-"]
    assert "  ro\\x1bcket.jpg · motion_bucket_id 180, noise_aug_strength 0.02  " in second


# --- where the service is, and the key


def test_the_service_of_up_is_found_by_its_data_folder(api: FakeApi, tmp_path: Path) -> None:
    api.routes["GET", "/v1/jobs/job_1"] = Answer(job())
    (tmp_path / "url").write_text(f"{api.url}\n")
    (tmp_path / "api-key").write_text("ak_local\n")
    done = run(None, "show", "job_1", "--data-dir", tmp_path, ANIMATIC_API_KEY=None)
    assert done.exit_code == 0
    assert api.requests[0].headers["Authorization"] == "Bearer ak_local"


def test_the_local_key_is_not_sent_to_another_service(api: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("http://127.0.0.1:1\n")
    (tmp_path / "api-key").write_text("ak_local\n")
    done = run(api, "list", "--data-dir", tmp_path, ANIMATIC_API_KEY=None)
    assert done.exit_code == ExitCode.UNAUTHORIZED
    assert not api.requests


def test_without_a_service_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    done = run(None, "list", "--data-dir", tmp_path)
    assert done.exit_code == ExitCode.UNAVAILABLE
    assert "animatic up" in done.stderr


def test_a_misspelt_variable_is_told_once_and_the_command_goes_on(api: FakeApi) -> None:
    api.routes["GET", "/v1/jobs/job_1"] = Answer(job())
    known = {"ANIMATIC_MODEL": "tiny", "ANIMATIC_REDIS_URL_FILE": "/secret", "ANIMATIC_SERVICE_PORT": "80"}
    done = run(api, "show", "job_1", ANIMATIC_API_URL="x", ANIMATIC_APIKEY="hidden", ANIMATIC_EMPTY="", **known)
    assert done.exit_code == 0
    assert sorted(done.stderr.splitlines()) == [
        "warning: unknown variable ANIMATIC_APIKEY (did you mean ANIMATIC_API_KEY?), which is ignored",
        "warning: unknown variable ANIMATIC_API_URL (did you mean ANIMATIC_URL?), which is ignored",
    ]


def test_a_misspelt_variable_is_told_before_the_error_that_it_causes(tmp_path: Path) -> None:
    done = run(None, "list", "--data-dir", tmp_path, ANIMATIC_URLS="http://127.0.0.1:1")
    first, second = done.stderr.splitlines()
    assert "ANIMATIC_URLS (did you mean ANIMATIC_URL?)" in first
    assert second.startswith("error: no service found")


# --- errors of the API and of the network


def test_a_problem_is_shown_as_one_line_with_its_fields(api: FakeApi, photo: Path) -> None:
    errors = [{"field": "width", "message": "width must be a multiple of 64, got 1000", "value": 1000}]
    api.routes["POST", "/v1/jobs"] = problem(422, "invalid_input", "the request is not valid", errors=errors)
    done = run(api, "submit", photo)
    assert done.exit_code == ExitCode.USAGE
    assert done.stderr == "error: the request is not valid; width must be a multiple of 64, got 1000\n"


@pytest.mark.parametrize(
    ("status", "code"), [(401, ExitCode.UNAUTHORIZED), (404, ExitCode.USAGE), (503, ExitCode.UNAVAILABLE)]
)
def test_exit_codes_tell_the_kinds_of_problems_apart(api: FakeApi, status: int, code: ExitCode) -> None:
    api.routes["GET", "/v1/jobs/job_1"] = problem(status, "some_code", "a sentence")
    done = run(api, "show", "job_1")
    assert (done.exit_code, done.stderr) == (code, "error: a sentence\n")


def test_an_error_page_of_a_proxy_is_still_one_line(api: FakeApi) -> None:
    api.routes["GET", "/v1/jobs/job_1"] = Answer(b"<html>Bad Gateway</html>", 502)
    done = run(api, "show", "job_1")
    assert done.exit_code == ExitCode.UNAVAILABLE
    assert done.stderr == f"error: {api.url}/v1/jobs/job_1 answered 502 Bad Gateway\n"


def test_a_service_that_is_down_is_named() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        done = run(None, "list", ANIMATIC_URL=url)
    assert done.exit_code == ExitCode.UNAVAILABLE
    assert done.stderr == f"error: cannot reach {url} (Connection refused); is the service running?\n"


def test_something_that_is_not_the_api_is_told(api: FakeApi) -> None:
    api.routes["GET", "/v1/jobs/job_1"] = Answer(b"<html>hello</html>")
    done = run(api, "show", "job_1")
    assert done.exit_code == ExitCode.UNAVAILABLE
    assert "does not answer like an Animatic API" in done.stderr


# --- commands


def test_submit_prints_the_id_on_stdout_and_warnings_on_stderr(api: FakeApi, photo: Path) -> None:
    api.routes["POST", "/v1/jobs"] = Answer(job(warnings=["fps 61 is unusual"]), 202)
    done = run(api, "submit", photo, "--label", "shot=1", "--label", "take=2", "--priority", "3")
    assert (done.stdout, done.stderr) == ("job_1\n", "warning: fps 61 is unusual\n")
    request = api.requests[0]
    assert request.form["image"] == b"jpeg"
    assert json.loads(request.form["labels"]) == {"shot": "1", "take": "2"}
    assert request.form["priority"] == b"3"
    assert request.headers["Idempotency-Key"]
    assert request.headers["Authorization"] == f"Bearer {KEY}"


def test_submit_sends_a_url_for_the_service_to_fetch(api: FakeApi) -> None:
    api.routes["POST", "/v1/jobs"] = Answer(job(), 202)
    run(api, "submit", "https://example.com/photo.jpg")
    assert api.requests[0].form == {"image_url": b"https://example.com/photo.jpg"}


def test_submit_with_output_waits_and_downloads(api: FakeApi, photo: Path, tmp_path: Path) -> None:
    api.routes["POST", "/v1/jobs"] = Answer(job(), 202)
    api.routes["GET", "/v1/jobs/job_1/events"] = Answer(sse(job(), job("succeeded", result=result(api.url))))
    api.routes["GET", "/v1/jobs/job_1/video"] = Answer(VIDEO)
    done = run(api, "submit", photo, "-o", tmp_path / "out.mp4")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "out.mp4").read_bytes() == VIDEO
    done = run(api, "submit", photo, "-o", tmp_path)
    assert done.stderr.endswith(f"video: {tmp_path / 'job_1.mp4'}\n")
    assert (tmp_path / "job_1.mp4").read_bytes() == VIDEO


def test_submit_says_at_once_that_no_worker_serves_the_model_and_waits(api: FakeApi, photo: Path) -> None:
    api.routes["POST", "/v1/jobs"] = Answer(job(model="svd-xt"), 202)
    api.routes["GET", "/v1/models/svd-xt"] = Answer({"id": "svd-xt", "workers": 0})
    api.routes["GET", "/v1/jobs/job_1/events"] = Answer(sse(job(), job("succeeded")))
    done = run(api, "submit", photo, "--wait")
    assert (done.exit_code, done.stdout) == (0, "job_1\n")
    (first, *rest) = done.stderr.splitlines()
    assert first.startswith(
        "warning: no worker serves svd-xt right now, so job_1 waits: start one, for example by `animatic up "
    )
    assert not any("no worker" in line for line in rest)
    assert [request.path for request in api.requests] == ["/v1/jobs", "/v1/models/svd-xt", "/v1/jobs/job_1/events"]


@pytest.mark.parametrize(
    "answer", [Answer({"id": "tiny", "workers": 1}), problem(403, "forbidden", "needs the scope jobs:read")]
)
def test_submit_is_silent_where_a_worker_serves_or_the_key_may_not_look(
    api: FakeApi, photo: Path, answer: Answer
) -> None:
    api.routes["POST", "/v1/jobs"] = Answer(job(), 202)
    api.routes["GET", "/v1/models/tiny"] = answer
    done = run(api, "submit", photo)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "job_1\n", "")


def test_a_sweep_says_at_once_that_no_worker_serves_its_model(api: FakeApi, photo: Path) -> None:
    counts = {"total": 2, "queued": 2, "running": 0, "succeeded": 0, "failed": 0, "canceled": 0}
    experiment = {"id": "exp_1", "model": "svd", "status": "running", "counts": counts, "warnings": []}
    api.routes["POST", "/v1/inputs"] = Answer({"id": "inp_1"}, 201)
    api.routes["POST", "/v1/experiments"] = Answer(experiment, 202)
    api.routes["GET", "/v1/models/svd"] = Answer({"id": "svd", "workers": 0})
    done = run(api, "sweep", photo, "--seed", "1,2", "--model", "svd", "--detach")
    assert (done.exit_code, done.stdout) == (0, "exp_1\n")
    assert "warning: no worker serves svd right now, so exp_1 waits" in done.stderr


def test_list_follows_the_pages_up_to_the_limit(api: FakeApi) -> None:
    def page(request: Request) -> Answer:
        first = 100 if "after=job_99" in request.path else 0
        size = int(request.path.rpartition("limit=")[2])
        data = [job(id=f"job_{number}") for number in range(first, first + size)]
        return Answer({"object": "list", "data": data, "last_id": data[-1]["id"], "has_more": True})

    api.routes["GET", "/v1/jobs"] = page
    done = run(api, "list", "--limit", "130", "--status", "queued", "--json")
    assert [found["id"] for found in json.loads(done.stdout)["data"]] == [f"job_{n}" for n in range(130)]
    assert [request.path for request in api.requests] == [
        "/v1/jobs?status=queued&limit=100",
        "/v1/jobs?status=queued&after=job_99&limit=30",
    ]


def test_watch_follows_the_stream_and_reconnects_where_it_broke(api: FakeApi) -> None:
    progress = {"phase": "denoise", "step": 3, "total_steps": 10, "fraction": 0.3}
    api.routes["GET", "/v1/jobs/job_1/events"] = [
        Answer(sse(job(), job("running", progress=progress))),
        Answer(sse(job("succeeded"))),
    ]
    done = run(api, "watch", "job_1")
    assert (done.exit_code, done.stdout) == (0, "job_1 succeeded\n")
    assert "job_1: denoise 3/10" in done.stderr
    streams = [request for request in api.requests if request.path.endswith("/events")]
    assert [request.headers.get("Last-Event-ID") for request in streams] == [None, "1"]


def test_watch_says_at_once_that_no_worker_serves_the_jobs_model(api: FakeApi) -> None:
    api.routes["GET", "/v1/models/svd-xt"] = Answer({"id": "svd-xt", "workers": 0})
    api.routes["GET", "/v1/jobs/job_1/events"] = Answer(sse(job(model="svd-xt"), job("succeeded", model="svd-xt")))
    done = run(api, "watch", "job_1")
    assert done.exit_code == 0
    assert done.stderr.startswith("warning: no worker serves svd-xt right now, so job_1 waits")


def test_an_empty_list_says_so_beside_its_headings(api: FakeApi) -> None:
    api.routes["GET", "/v1/jobs"] = Answer({"object": "list", "data": [], "last_id": None, "has_more": False})
    done = run(api, "list")
    assert done.stdout.split() == ["ID", "STATUS", "MODEL", "CREATED", "IMAGE", "LABELS"]
    assert done.stderr == "there are none\n"


def test_watch_polls_where_streams_do_not_get_through(api: FakeApi) -> None:
    api.routes["GET", "/v1/jobs/job_1/events"] = Answer(b"<html>no streams here</html>", 404)
    api.routes["GET", "/v1/jobs/job_1"] = [Answer(job()), Answer(job("succeeded"))]
    done = run(api, "watch", "job_1", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["status"] == "succeeded"


def test_watch_of_a_failed_job_says_why_and_ends_with_1(api: FakeApi) -> None:
    error = {"code": "invalid_output", "message": "the video is black"}
    api.routes["GET", "/v1/jobs/job_1/events"] = Answer(sse(job("failed", error=error)))
    done = run(api, "watch", "job_1")
    assert done.exit_code == ExitCode.JOB_FAILED
    assert done.stderr.endswith("error: job_1 failed: the video is black (invalid_output)\n")


def test_watch_of_an_unknown_job_ends_at_once(api: FakeApi) -> None:
    done = run(api, "watch", "job_2")
    assert done.exit_code == ExitCode.USAGE
    assert len(api.requests) == 1


def test_watch_gives_up_when_the_time_is_over(api: FakeApi) -> None:
    api.routes["GET", "/v1/jobs/job_1/events"] = Answer(sse(job()))
    api.routes["GET", "/v1/jobs/job_1"] = Answer(job())
    done = run(api, "watch", "job_1", "--timeout", "0.5")
    assert done.exit_code == ExitCode.TIMED_OUT


def test_download_writes_what_the_job_promised(api: FakeApi, tmp_path: Path) -> None:
    # Links carry the public URL, which this client cannot reach; redirects lead to the store.
    api.routes["GET", "/v1/jobs/job_1"] = Answer(job("succeeded", result=result("https://public.example")))
    api.routes["GET", "/v1/jobs/job_1/video"] = Answer(b"", 302, {"Location": "/store/signed"})
    for path in ("/store/signed", "/v1/jobs/job_1/frames/0", "/v1/jobs/job_1/manifest"):
        api.routes["GET", path] = Answer(VIDEO)
    folder = tmp_path / "new"
    done = run(
        api, "download", "job_1", "-o", folder / "a.mp4", "--frames", folder / "f", "--manifest", folder / "m.json"
    )
    assert done.exit_code == 0, done.stderr
    written = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert written == ["a.mp4", "f/frame_0000.png", "m.json"]
    assert (folder / "a.mp4").read_bytes() == VIDEO


def test_download_keeps_nothing_that_is_not_what_was_promised(api: FakeApi, tmp_path: Path) -> None:
    api.routes["GET", "/v1/jobs/job_1"] = Answer(job("succeeded", result=result(api.url, sha256="0" * 64)))
    api.routes["GET", "/v1/jobs/job_1/video"] = Answer(VIDEO)
    (tmp_path / "a.mp4").write_bytes(b"what was there before")
    done = run(api, "download", "job_1", "-o", tmp_path / "a.mp4")
    assert done.exit_code == ExitCode.UNAVAILABLE
    assert "is not what the job promised" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"what was there before"


def test_the_key_is_not_sent_to_the_store_that_a_redirect_leads_to(api: FakeApi, tmp_path: Path) -> None:
    store = FakeApi()
    thread = threading.Thread(target=store.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        store.routes["GET", "/signed"] = Answer(VIDEO)
        api.routes["GET", "/v1/jobs/job_1"] = Answer(job("succeeded", result=result(api.url)))
        api.routes["GET", "/v1/jobs/job_1/video"] = Answer(b"", 302, {"Location": f"{store.url}/signed"})
        done = run(api, "download", "job_1", "-o", tmp_path / "a.mp4")
    finally:
        store.server.shutdown()
        store.server.server_close()
        thread.join()
    assert done.exit_code == 0, done.stderr
    assert "Authorization" not in store.requests[0].headers


def test_download_of_a_job_without_a_result_says_where_it_stands(api: FakeApi, tmp_path: Path) -> None:
    api.routes["GET", "/v1/jobs/job_1"] = Answer(job("running"))
    done = run(api, "download", "job_1", "-o", tmp_path / "a.mp4")
    assert (done.exit_code, done.stderr) == (ExitCode.JOB_FAILED, "error: job_1 is still running\n")


def test_ids_from_the_command_line_cannot_change_the_path(api: FakeApi) -> None:
    run(api, "show", "../keys?x=1")
    assert api.requests[0].path == "/v1/jobs/..%2Fkeys%3Fx%3D1"


def test_cancel_and_delete_take_several_jobs(api: FakeApi) -> None:
    for name in ("job_1", "job_2"):
        api.routes["POST", f"/v1/jobs/{name}/cancel"] = Answer(job("canceled", id=name))
        api.routes["DELETE", f"/v1/jobs/{name}"] = Answer(b"", 204)
    assert run(api, "cancel", "job_1", "job_2").stdout == "job_1 canceled\njob_2 canceled\n"
    assert run(api, "delete", "job_1", "job_2").stdout == "job_1 deleted\njob_2 deleted\n"
    assert [request.method for request in api.requests] == ["POST", "POST", "DELETE", "DELETE"]


def test_what_was_done_is_told_although_a_later_one_fails(api: FakeApi) -> None:
    api.routes["POST", "/v1/jobs/job_1/cancel"] = Answer(job("canceled"))
    done = run(api, "cancel", "job_1", "job_2")
    assert (done.exit_code, done.stdout) == (ExitCode.USAGE, "job_1 canceled\n")
    assert done.stderr == "error: there is no /v1/jobs/job_2/cancel\n"


def test_experiments_are_deleted(api: FakeApi) -> None:
    api.routes["DELETE", "/v1/experiments/exp_1"] = Answer(b"", 204)
    done = run(api, "experiments", "delete", "exp_1", "--json")
    assert json.loads(done.stdout)["data"] == [{"id": "exp_1", "deleted": True}]


def test_a_name_does_not_move_the_cursor_of_who_lists_it(api: FakeApi) -> None:
    key = {"id": "key_1", "name": "a\x1b]0;b\x07\x9b2J\n", "hint": "ak_1…", "created_at": "2026-01-02T03:04:05Z"}
    api.routes["GET", "/v1/keys"] = Answer({"object": "list", "data": [key], "last_id": "key_1", "has_more": False})
    assert "key_1  a\\x1b]0;b\\x07\\x9b2J\\n  " in run(api, "keys", "list").stdout


def test_keys_are_created_listed_and_revoked(api: FakeApi) -> None:
    key = {"id": "key_1", "name": "farm", "hint": "ak_…9x", "created_at": "2026-01-02T03:04:05Z"}
    api.routes["POST", "/v1/keys"] = Answer({**key, "key": "ak_new"}, 201)
    api.routes["GET", "/v1/keys"] = Answer({"object": "list", "data": [key], "last_id": "key_1", "has_more": False})
    api.routes["DELETE", "/v1/keys/key_1"] = Answer(b"", 204)
    assert run(api, "keys", "create", "--name", "farm").stdout == "ak_new\n"
    assert json.loads(api.requests[0].body) == {"name": "farm"}
    assert "key_1  farm" in run(api, "keys", "list").stdout
    assert run(api, "keys", "revoke", "key_1").exit_code == 0


def test_deliveries_are_listed_and_sent_again(api: FakeApi) -> None:
    delivery = {
        "id": "evt_1",
        "status": "exhausted",
        "tries": 10,
        "last_status_code": 500,
        "last_error": None,
        "next_try_at": None,
        "url": "https://example.com/hook",
    }
    api.routes["GET", "/v1/jobs/job_1/deliveries"] = Answer({"object": "list", "data": [delivery]})
    api.routes["POST", "/v1/deliveries/evt_1/redeliver"] = Answer({**delivery, "status": "pending"}, 202)
    api.routes["GET", "/v1/experiments/exp_1/deliveries"] = api.routes["GET", "/v1/jobs/job_1/deliveries"]
    assert "evt_1  exhausted  10" in run(api, "deliveries", "job_1").stdout
    assert "evt_1  exhausted  10" in run(api, "deliveries", "exp_1").stdout
    assert run(api, "redeliver", "evt_1").stdout == "evt_1 pending\n"


# --- parts


def test_events_are_cut_the_same_wherever_the_chunks_end() -> None:
    text = b": hello\nretry: 5\n\nevent: job\r\nid: 7\r\ndata: a\r\ndata: b\r\n\r\ndata:c\n\n"
    expected = [Event("job", "a\nb", "7"), Event("message", "c", "7")]
    for size in range(1, len(text)):
        chunks = [text[start : start + size] for start in range(0, len(text), size)]
        assert list(parse_events(chunks)) == expected


def test_the_demos_receiver_takes_only_messages_with_a_fresh_and_right_signature() -> None:
    from datetime import UTC, datetime, timedelta

    from standardwebhooks import Webhook

    secret = "whsec_" + "A" * 32
    now = datetime.now(UTC)

    def message(at: datetime, body: str = "{}") -> Message:
        signature = Webhook(secret).sign("evt_1", at, "{}")
        return Message("evt_1", str(int(at.timestamp())), signature, body.encode())

    assert message(now).verifies(secret)
    assert not message(now, '{"forged": 1}').verifies(secret)
    assert not message(now - timedelta(hours=1)).verifies(secret)
    assert not message(now).verifies("whsec_" + "B" * 32)


def test_every_command_that_answers_has_json() -> None:
    context = click.Context(cli)
    without = {"api", "worker", "maintain", "migrate", "completion"}
    for name in set(_COMMANDS) - without:
        command = cli.get_command(context, name)
        parts = list(command.commands.values()) if isinstance(command, click.Group) else [command]
        for part in parts:
            assert part is not None
            has_json = any("--json" in parameter.opts for parameter in part.params)
            assert has_json or part.name == "pull", f"{name} {part.name}"
