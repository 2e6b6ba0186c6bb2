"""The documents tell the truth: every curl runs as written, every link leads somewhere, every table is complete."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import BOOTSTRAP_KEY, Receiver, Service, eventually, webhook_receiver

from api.problems import _HTTP_CODES as HTTP_CODES
from shared import errors
from shared.exit_codes import ExitCode
from shared.states import AttemptOutcome, DeliveryStatus, JobStatus, Phase

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), *sorted(ROOT.glob("*.md"))]
#: what runs against a service as written.
WITH_CURL = [DOCS / "http-api.md", ROOT / "README.md"]


def blocks(page: Path, *languages: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [body for language, body in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S) if language in languages]


def curl_blocks(page: Path) -> list[str]:
    return [block for block in blocks(page, "sh", "bash") if "curl" in block]


def subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    yield kind
    for below in kind.__subclasses__():
        yield from subclasses(below)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with webhook_receiver() as receiver:
        yield receiver


@pytest.fixture
def running(service: Service, receiver: Receiver) -> Service:
    port = int(receiver.url.rpartition(":")[2].partition("/")[0])
    service.start_all("double", outbound_ports=(port,))
    return service


def run_as_written(page: Path, service: Service, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """All curl blocks of a page, one after the other, in one shell that stops at the first failure."""
    (folder / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\nmax-time = 90\n")
    (folder / "docs").symlink_to(DOCS)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANIMATIC_")}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-x", "-c", "\n".join(curl_blocks(page))],
        env={
            **environment,
            "CURL_HOME": str(folder),
            "ANIMATIC_URL": service.url,
            "ANIMATIC_API_KEY": BOOTSTRAP_KEY,
            **variables,
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.parametrize("page", [page for page in WITH_CURL if curl_blocks(page)], ids=lambda page: page.name)
def test_every_curl_of_a_page_runs_as_written(page: Path, running: Service, receiver: Receiver, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    run = run_as_written(page, running, folder, WEBHOOK_URL=receiver.url)
    assert run.returncode == 0, f"{run.stdout[-2000:]}\n{run.stderr[-2000:]}"
    for video in folder.glob("*.mp4"):
        assert video.read_bytes()[4:8] == b"ftyp"
    if page.name == "http-api.md":
        assert "event: job" in run.stdout
        assert "Idempotent-Replayed: true" in run.stdout
        assert (folder / "frame.png").read_bytes().startswith(b"\x89PNG")
        secret = json.loads((folder / "secret.json").read_text())["secret"]  # the page rotates it later on
        check_verification(page, running, receiver, secret)


def check_verification(page: Path, service: Service, receiver: Receiver, secret: str) -> None:
    """The Python of the page accepts a message that was sent, and refuses one that was changed."""
    [source] = [block for block in blocks(page, "python") if "standardwebhooks" in block]
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    receive: Callable[..., str | None] = namespace["receive"]
    headers, body = eventually(lambda: receiver.requests)[0]
    job_id = receive(body, headers, secret)
    assert job_id is not None
    assert service.job(job_id)["webhook_url"] == receiver.url
    assert receive(body.replace(b"succeeded", b"succeedee"), headers, secret) is None


def test_every_route_has_its_heading_and_no_heading_lacks_a_route(client: Any) -> None:
    document = client.get("/openapi.json").get_json()
    routes = {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item}
    text = (DOCS / "http-api.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### `((?:GET|POST|DELETE|PUT|PATCH) \S+)`$", text, re.M)) == routes


def test_every_field_of_a_request_is_in_the_table(client: Any) -> None:
    schema = client.get("/openapi.json").get_json()["components"]["schemas"]["JobRequest"]
    text = (DOCS / "http-api.md").read_text(encoding="utf-8")
    for field in schema["properties"]:
        assert f"`{field}`" in text, field


def test_every_problem_code_is_documented() -> None:
    text = (DOCS / "http-api.md").read_text(encoding="utf-8")
    kinds = [*subclasses(errors.RequestError), *subclasses(errors.GenerationError), *subclasses(errors.TransientError)]
    codes = {kind.code for kind in kinds} | set(HTTP_CODES.values())
    codes |= {"internal_error", "http_error", "worker_lost", "expired_in_queue"}
    missing = {code for code in codes if f"`{code}`" not in text}
    assert not missing


def test_every_exit_code_is_in_the_table_of_operations() -> None:
    text = (DOCS / "operations.md").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^\| (\d+) \| `(\w+)` \|", text, re.M))
    assert documented == {str(int(code)): code.name for code in ExitCode}


@pytest.mark.parametrize("words", [JobStatus, Phase, AttemptOutcome, DeliveryStatus])
def test_every_state_is_explained(words: type[JobStatus]) -> None:
    text = (DOCS / "states.md").read_text(encoding="utf-8")
    for word in words:
        assert f"`{word}`" in text, word


def test_every_function_that_the_table_of_transitions_names_exists() -> None:
    text = (DOCS / "states.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:shared|worker|api)/[\w/]+\.py):(\w+)`", text))
    assert len(named) > 10
    for path, function in named:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^\s*(?:def|class) {function}\b", source, re.M), f"{path}:{function}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(
        r"`((?:api|worker|shared|cli|migrations|deploy|tests)/[\w/.-]+\.\w+)[:`]", page.read_text(encoding="utf-8")
    )
    for path in named:
        assert (ROOT / path).exists(), path
