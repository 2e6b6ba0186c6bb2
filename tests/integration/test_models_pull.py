"""`python -m worker.models` against a hub of our own on loopback, in processes of its own."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from shared.catalogue import find_entry
from shared.exit_codes import ExitCode
from worker.checkpoint import TINY

ROOT = Path(__file__).parents[2]
ENTRY = find_entry("svd")


class Hub(ThreadingHTTPServer):
    """The part of the Hugging Face hub's API that a pull uses, with the files of one repository."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files: dict[str, bytes] = {}
        #: status and X-Error-Code of every answer; None: the files.
        self.refusal: tuple[int, str] | None = None
        self.tokens: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        path = unquote(urlsplit(self.path).path)
        if self.server.refusal is not None:
            status, code = self.server.refusal
            return self._answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": "Refused by the test."})
        if path.startswith(f"/api/models/{ENTRY.repository}/tree/"):
            return self._answer(200, json.dumps([entry(*item) for item in self.server.files.items()]).encode(), {})
        name = path.removeprefix(f"/{ENTRY.repository}/resolve/{ENTRY.revision}/")
        if name not in self.server.files:
            return self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        content = self.server.files[name]
        etag = hashlib.sha256(content).hexdigest()
        return self._answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": ENTRY.revision or ""})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Tests print nothing."""


def entry(path: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


def safetensors(size: int = 4096) -> bytes:
    header = json.dumps({"x": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


def repository() -> dict[str, bytes]:
    """SVD's file names; the weights are blank, since a pull does not load them."""
    configs: dict[str, dict[str, Any]] = {
        "model_index.json": {"_class_name": "StableVideoDiffusionPipeline"},
        "unet/config.json": {"_class_name": "UNetSpatioTemporalConditionModel"},
        "vae/config.json": {"_class_name": "AutoencoderKLTemporalDecoder"},
        "image_encoder/config.json": {"architectures": ["CLIPVisionModelWithProjection"], "projection_dim": 1024},
        "feature_extractor/preprocessor_config.json": {"feature_extractor_type": "CLIPImageProcessor"},
        "scheduler/scheduler_config.json": {
            "_class_name": "EulerDiscreteScheduler",
            "prediction_type": "v_prediction",
        },
    }
    weights = ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "image_encoder/model")
    return {
        **{name: json.dumps(config).encode() for name, config in configs.items()},
        **{f"{name}{infix}.safetensors": safetensors() for name in weights for infix in ("", ".fp16")},
        "svd.safetensors": safetensors(),
        "README.md": b"# A model card",
    }


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        server.files = repository()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def models(url: str, home: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker.models", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
        env={"HF_ENDPOINT": url, "HF_HOME": str(home), "HOME": str(home), "PATH": "", "HF_HUB_DISABLE_XET": "1"}
        | environ,
    )


def snapshot(home: Path) -> Path:
    return home / "hub" / "models--stabilityai--stable-video-diffusion-img2vid" / "snapshots" / str(ENTRY.revision)


def test_a_pull_fetches_what_loading_needs_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    done = models(hub.url, tmp_path, "pull", "svd", ANIMATIC_HF_TOKEN="hf_test")
    assert done.returncode == ExitCode.OK, done.stderr
    assert "svd is ready" in done.stdout
    fetched = {str(path.relative_to(snapshot(tmp_path))) for path in snapshot(tmp_path).rglob("*") if path.is_file()}
    assert fetched == {name for name in hub.files if name.endswith(".json") or ".fp16." in name}
    assert "Bearer hf_test" in hub.tokens
    listed = json.loads(models(hub.url, tmp_path, "list", "--json").stdout)
    assert {model["name"]: model["state"] for model in listed} == {
        "tiny": "ready",
        "svd": "ready",
        "svd-xt": "not pulled",
        "svd-xt-1.1": "not pulled",
    }


def test_a_second_pull_mends_a_truncated_file(hub: Hub, tmp_path: Path) -> None:
    models(hub.url, tmp_path, "pull", "svd")
    weights = (snapshot(tmp_path) / "unet" / "diffusion_pytorch_model.fp16.safetensors").resolve()
    weights.write_bytes(weights.read_bytes()[:-7])
    assert "truncated" in models(hub.url, tmp_path, "list").stdout
    assert models(hub.url, tmp_path, "pull", "svd").returncode == ExitCode.OK


def test_a_repository_without_the_weights_is_not_called_ready(hub: Hub, tmp_path: Path) -> None:
    del hub.files["vae/diffusion_pytorch_model.fp16.safetensors"]
    done = models(hub.url, tmp_path, "pull", "svd")
    assert done.returncode == ExitCode.MODEL_INVALID
    assert "vae has no diffusion_pytorch_model.safetensors" in done.stderr


@pytest.mark.parametrize(
    ("refusal", "token", "said"),
    [
        ((401, "GatedRepo"), "", "put a token into ANIMATIC_HF_TOKEN"),
        ((403, "GatedRepo"), "hf_test", "account has no access"),
        ((404, "RepoNotFound"), "", "is not there"),
        ((404, "RevisionNotFound"), "", "has no revision"),
        ((500, ""), "", "cannot be reached"),
    ],
)
def test_a_refusal_is_one_sentence_with_what_to_do(
    hub: Hub, tmp_path: Path, refusal: tuple[int, str], token: str, said: str
) -> None:
    hub.refusal = refusal
    done = models(hub.url, tmp_path, "pull", "svd", ANIMATIC_HF_TOKEN=token)
    assert done.returncode == ExitCode.MODEL_UNAVAILABLE
    [sentence] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said in sentence
    assert "Traceback" not in done.stderr


def test_without_network_a_pull_says_so(tmp_path: Path) -> None:
    done = models("http://127.0.0.1:9", tmp_path, "pull", "svd")
    assert done.returncode == ExitCode.MODEL_UNAVAILABLE
    assert "check the network" in done.stderr
    assert "Traceback" not in done.stderr


def test_tiny_is_there_without_network(tmp_path: Path) -> None:
    done = models("http://127.0.0.1:9", tmp_path, "pull", "tiny")
    assert done.returncode == ExitCode.OK, done.stderr
    assert done.stdout.strip() == f"tiny is ready in {TINY}"
    assert not list(tmp_path.iterdir())
