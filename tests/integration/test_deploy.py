"""docker-compose.yml and the Dockerfiles, as far as they can be checked without Docker."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer
from packaging.requirements import Requirement
from support import Service, eventually

from shared.catalogue import find_entry
from shared.environment import load_settings
from shared.settings import Settings
from worker.checkpoint import TINY

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
ENV_EXAMPLE = ROOT / ".env.example"
DOCKERFILES = sorted((ROOT / "deploy").glob("*.Dockerfile"))

DOCUMENT: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("animatic-")}
SECRETS = {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"} | {
    "ANIMATIC_BOOTSTRAP_API_KEY",
    "ANIMATIC_HF_TOKEN",
    "ANIMATIC_WANDB_API_KEY",
}
#: all but what only maintainers run.
WORKER_SOURCES = [path.relative_to(ROOT) for path in (ROOT / "worker").iterdir() if path.name != "tracking"]
VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?:(?P<kind>:[-?])(?P<text>[^}]*))?\}")


def read_example() -> dict[str, str]:
    lines = ENV_EXAMPLE.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def fill_in(value: str) -> str:
    """Interpolate as Compose does, with .env.example and a placeholder for each secret."""
    example = read_example()

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        default = (match["text"] or "") if match["kind"] == ":-" else ""
        return "0123456789abcdef" * 2 if name in SECRETS else example.get(name) or default

    return VARIABLE.sub(replace, value)


def environment(service: dict[str, Any]) -> dict[str, str]:
    return {name: fill_in(str(value)) for name, value in service.get("environment", {}).items()}


def whole_command(service: dict[str, Any]) -> list[str]:
    return [*service.get("entrypoint", []), *(service.get("command") or dockerfile_command(service))]


def dockerfile_command(service: dict[str, Any]) -> list[str]:
    text = (ROOT / service["build"]["dockerfile"]).read_text(encoding="utf-8")
    command: list[str] = json.loads(re.findall(r"^CMD (.+)$", text, re.MULTILINE)[-1])
    return command


def seconds(text: str) -> float:
    units = {"s": 1, "m": 60}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"(\d+)([sm])", text))


def run_module(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ANIMATIC_")}
    return subprocess.run(
        [sys.executable, *arguments], env={**clean, **variables}, cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_the_file_follows_the_compose_specification() -> None:
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    found = subprocess.run(checker, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_part_of_the_design_is_there() -> None:
    assert {"postgres", "redis", "objects", "migrate", "api", "maintainer", "worker-0", "worker-cpu"} <= set(SERVICES)


@pytest.mark.parametrize("name", OURS)
def test_every_service_of_ours_has_settings_that_it_starts_with(name: str) -> None:
    settings = load_settings(environment(OURS[name]))
    if name != "pull":
        assert settings.database_url != Settings().database_url or name == "bucket"
    if name not in ("pull", "migrate"):
        assert settings.object_store == "s3://animatic"
        assert settings.s3_endpoint_url == "http://objects:8333"
    for model in (settings.model, *settings.models):
        find_entry(model)


def test_the_processes_agree_on_what_they_share() -> None:
    loaded = {name: load_settings(environment(OURS[name])) for name in ("api", "maintainer", "worker-0", "worker-cpu")}
    for field in ("database_url", "redis_url", "object_store", "s3_endpoint_url", "public_url", "lease_s"):
        assert len({getattr(settings, field) for settings in loaded.values()}) == 1, field
    assert {loaded["worker-0"].model, loaded["worker-cpu"].model} <= set(loaded["api"].models)
    assert loaded["api"].outbound_allow == loaded["maintainer"].outbound_allow


def test_the_engines_get_the_credentials_that_our_processes_use() -> None:
    api = load_settings(environment(SERVICES["api"]))
    postgres, redis = environment(SERVICES["postgres"]), environment(SERVICES["redis"])
    url = f"postgresql://{postgres['POSTGRES_USER']}:{postgres['POSTGRES_PASSWORD']}@postgres:5432/{postgres['POSTGRES_DB']}"
    assert api.database_url.get_secret_value() == url
    command = SERVICES["redis"]["command"][-1].split()
    assert '"$$REDISCLI_AUTH"' in command
    assert api.redis_url.get_secret_value() == f"redis://:{redis['REDISCLI_AUTH']}@redis:6379/0"
    assert command[command.index("--appendonly") + 1] == "yes"
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"
    [identity] = json.loads(fill_in(DOCUMENT["configs"]["s3-identities"]["content"]))["identities"]
    [credentials] = identity["credentials"]
    assert api.s3_access_key_id is not None
    assert api.s3_secret_access_key is not None
    assert credentials == {
        "accessKey": api.s3_access_key_id.get_secret_value(),
        "secretKey": api.s3_secret_access_key.get_secret_value(),
    }


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_closed_as_far_as_its_image_allows(name: str) -> None:
    service = SERVICES[name]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.get("privileged")
    if name == "objects":
        # Compose cannot copy an inline config into a root that is read-only.
        assert service["configs"]
        return
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert any(mount.partition(":")[0] == "/tmp" for mount in service["tmpfs"])
    # Ours say it in the Dockerfile, which has a test of its own.
    assert name in OURS or service["user"] in ("postgres", "redis")


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_stands_on_a_command_line(name: str) -> None:
    service = SERVICES[name]
    test = service.get("healthcheck", {}).get("test", [])
    for part in [*service.get("entrypoint", []), *(service.get("command") or []), *test]:
        assert not {match["name"] for match in VARIABLE.finditer(part)} & SECRETS, part


def test_what_our_processes_write_is_below_a_mount_or_tmp(service: Service, tmp_path: Path) -> None:
    """As in a container: no home to write to, and everything else in TMPDIR."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    environment = service.environment

    def in_container(**changes: object) -> dict[str, str]:
        return {**environment(**changes), "TMPDIR": str(scratch), "HOME": str(closed), "PYTHONDONTWRITEBYTECODE": "1"}

    service.environment = in_container  # type: ignore[method-assign]
    service.start_all("double")
    job = service.submit((ROOT / "docs" / "samples" / "rocket.jpg").read_bytes())
    service.await_status(job["id"], "succeeded")
    assert list(closed.iterdir()) == []


def test_the_object_store_reads_the_identities_that_are_mounted() -> None:
    [mounted] = SERVICES["objects"]["configs"]
    assert mounted["source"] in DOCUMENT["configs"]
    assert f"-s3.config={mounted['target']}" in SERVICES["objects"]["command"]


def test_every_variable_is_documented_in_the_example_and_every_one_there_is_used() -> None:
    used = {match["name"] for match in VARIABLE.finditer(COMPOSE.read_text(encoding="utf-8"))}
    assert used | {"COMPOSE_PROFILES"} == set(read_example())


def test_no_secret_is_in_any_file() -> None:
    example = read_example()
    for name in SECRETS:
        assert example[name] == "", name
        for match in VARIABLE.finditer(COMPOSE.read_text(encoding="utf-8")):
            if match["name"] == name:
                assert match["kind"] == ":?" or (match["kind"] == ":-" and match["text"] == ""), match[0]
    for service in SERVICES.values():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|KEY|_AUTH|_URL$", variable):
                literal = VARIABLE.sub("", str(value))
                assert re.fullmatch(r"|https?://[\w.:]+|postgresql://animatic:@[\w.:/]+|redis://:@[\w.:/]+", literal)


def test_the_environment_file_is_not_versioned_and_not_in_images() -> None:
    assert ".env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "*" in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned_and_everything_named_is_defined(name: str) -> None:
    service = SERVICES[name]
    tag = service["image"].rpartition(":")[2]
    assert re.fullmatch(r"\d+\.\d+[\w.-]*", tag), service["image"]
    assert set(service["networks"]) <= set(DOCUMENT["networks"])
    assert set(service.get("depends_on", {})) <= set(SERVICES)
    for volume in service.get("volumes", []):
        assert volume.partition(":")[0] in DOCUMENT["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_what_runs_on_restarts_and_has_a_health_check_and_what_ends_does_not(name: str) -> None:
    service = SERVICES[name]
    if name in ("migrate", "bucket", "pull"):
        assert service["restart"] == "no"
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        assert service["stop_grace_period"]


def test_docker_waits_for_a_drain_before_it_kills() -> None:
    for name in ("worker-0", "worker-cpu"):
        grace = load_settings(environment(SERVICES[name])).drain_grace_s
        assert seconds(SERVICES[name]["stop_grace_period"]) >= grace + 15


def test_each_gpu_worker_holds_one_device_and_the_cpu_worker_none() -> None:
    [device] = SERVICES["worker-0"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}
    assert (SERVICES["worker-0"]["profiles"], SERVICES["worker-cpu"]["profiles"]) == (["gpu"], ["cpu"])
    assert "deploy" not in SERVICES["worker-cpu"]


def test_the_second_gpu_worker_that_the_comment_shows_is_a_valid_service(tmp_path: Path) -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    lines = re.findall(
        r"^#   (  worker-1:|    <<: \*worker|    deploy: .+)$", text.replace("#   ", "#     "), re.MULTILINE
    )
    assert len(lines) == 3
    changed = tmp_path / "docker-compose.yml"
    changed.write_text(text.replace("\n  worker-cpu:", "\n" + "\n".join(lines) + "\n\n  worker-cpu:", 1))
    document = yaml.safe_load(changed.read_text())
    first, second = document["services"]["worker-0"], document["services"]["worker-1"]
    assert second["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] == ["1"]
    assert {**first, "deploy": None} == {**second, "deploy": None}


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_everything_that_a_dockerfile_copies_is_there_and_not_ignored(dockerfile: Path) -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+)$", dockerfile.read_text(encoding="utf-8"), re.MULTILINE)
    assert copied
    for line in copied:
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source in allowed


def test_the_wheel_that_the_worker_image_installs_holds_the_embedded_model(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "worker.Dockerfile").read_text(encoding="utf-8")
    source, ignored = tmp_path / "source", shutil.ignore_patterns("__pycache__", "*.pyc")
    source.mkdir()
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for name in line.split()[:-1]:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, source / name, ignore=ignored)
            else:
                shutil.copy(ROOT / name, source)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.getinfo(name).file_size for name in archive.namelist()}
    for path in TINY.rglob("*"):
        if path.is_file():
            assert packed[str(path.relative_to(ROOT))] == path.stat().st_size


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_images_run_as_an_ordinary_user_and_are_pinned_by_the_constraints(dockerfile: Path) -> None:
    text = dockerfile.read_text(encoding="utf-8")
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE)[-1] == "animatic"
    for line in re.findall(r"pip install (.+)$", text, re.MULTILINE):
        assert "--constraint constraints.txt" in line or "--no-deps" in line


def test_the_dockerfiles_commands_are_the_entry_points() -> None:
    assert dockerfile_command(SERVICES["api"]) == ["python", "-m", "api.serve"]
    assert dockerfile_command(SERVICES["worker-0"]) == ["python", "-m", "worker"]


@pytest.mark.parametrize(
    ("dockerfile", "extra", "sources"),
    [
        (
            "api.Dockerfile",
            "api,wandb",
            [
                *("shared", "api", "migrations"),
                *("worker/maintain.py", "worker/maintenance", "worker/tracking", "worker/health.py"),
            ],
        ),
        ("worker.Dockerfile", "worker", ["shared", *map(str, WORKER_SOURCES)]),
    ],
)
def test_an_image_has_every_library_that_its_code_imports(dockerfile: str, extra: str, sources: list[str]) -> None:
    assert f"'.[{extra}]'" in (ROOT / "deploy" / dockerfile).read_text(encoding="utf-8")
    installed = {name for one in extra.split(",") for name in with_dependencies("animatic", one)}
    modules = packages_distributions()
    for name in sorted(third_party_imports(sources)):
        assert installed & {canonical(found) for found in modules[name]}, f"{name} is not in the extra {extra}"
    if dockerfile == "api.Dockerfile":
        assert "torch" not in installed


def third_party_imports(sources: list[str]) -> set[str]:
    files = [
        file
        for source in sources
        for file in ([ROOT / source] if source.endswith(".py") else (ROOT / source).rglob("*.py"))
        # Reads videos for the demo and the tests; two that are for workers and the training.
        if file not in [ROOT / "shared" / name for name in ("video.py", "similarity.py", "pictures.py")]
    ]
    names: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    ours = {"api", "worker", "shared", "cli", "migrations"}
    return (
        names
        - set(sys.stdlib_module_names)
        - ours
        - {
            "mypy_boto3_s3",  # for type checkers
            "triton",  # comes with torch for CUDA; without it the references run
        }
    )


def with_dependencies(
    distribution: str, extra: str = "", seen: dict[tuple[str, str], None] | None = None
) -> Iterator[str]:
    """The distributions that an installation brings, by the installed ones' own metadata."""
    seen = {} if seen is None else seen
    if (distribution, extra) in seen:
        return
    seen[distribution, extra] = None
    yield distribution
    try:
        lines = requires(distribution) or []
    except PackageNotFoundError:
        return
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            for wanted in ["", *requirement.extras]:
                yield from with_dependencies(canonical(requirement.name), wanted, seen)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", OURS)
def test_every_command_runs_a_module_or_script_that_exists(name: str) -> None:
    command = whole_command(OURS[name])
    assert command[0] == "python"
    if command[1] == "-m":
        assert importlib.util.find_spec(command[2]) is not None
    else:
        copied = (ROOT / OURS[name]["build"]["dockerfile"]).read_text(encoding="utf-8")
        [source] = re.findall(rf"^COPY (\S+) {re.escape(command[1])}$", copied, re.MULTILINE)
        assert (ROOT / source).exists()


@pytest.mark.parametrize("name", [name for name in OURS if name != "bucket"])
def test_every_entry_point_starts_and_refuses_an_unknown_setting(name: str) -> None:
    # It gets as far as reading its settings, and no further.
    run = run_module(*whole_command(OURS[name])[1:], **environment(OURS[name]), ANIMATIC_MISSPELT="1")
    assert run.returncode == 78, run.stderr
    assert "ANIMATIC_MISSPELT" in run.stderr


def test_a_restart_does_not_repeat_the_migrations(database_url: str) -> None:
    for _ in range(2):
        run = run_module(*whole_command(SERVICES["migrate"])[1:], ANIMATIC_DATABASE_URL=database_url)
        assert run.returncode == 0, run.stderr


def test_the_bucket_is_made_once_and_again_is_no_error() -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        variables = {**environment(SERVICES["bucket"]), "ANIMATIC_S3_ENDPOINT_URL": url}
        for _ in range(2):
            run = run_module("deploy/make_bucket.py", **variables, PYTHONPATH=str(ROOT))
            assert (run.returncode, run.stdout) == (0, "bucket animatic is there\n"), run.stderr
        client = boto3.client(
            "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
        )
        assert [bucket["Name"] for bucket in client.list_buckets()["Buckets"]] == ["animatic"]
        client.close()
    finally:
        server.stop()


def health(name: str, service: Service, port: int = 8000) -> int:
    """Run a service's health check as written, but for the port."""
    kind, program, *arguments = SERVICES[name]["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "python")
    arguments = [argument.replace("127.0.0.1:8000", f"127.0.0.1:{port}") for argument in arguments]
    run = subprocess.run(
        [sys.executable, *arguments], env=service.environment(), cwd=ROOT, capture_output=True, timeout=30
    )
    return run.returncode


def test_the_health_checks_tell_a_process_at_work_from_one_that_is_not(service: Service) -> None:
    names = ("api", "maintainer", "worker-0")
    assert all(health(name, service, service.port) != 0 for name in names)
    service.start_all("double")
    for name in names:
        eventually(lambda name=name: health(name, service, service.port) == 0, within_s=30)
    for process in service.processes:
        assert process.stop() == 0
    time.sleep(0.5)
    assert health("api", service, service.port) != 0
    assert health("worker-0", service) != 0
    assert health("maintainer", service) != 0
