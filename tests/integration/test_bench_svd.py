"""The engine's benches at toy size, on the CPU, so that they cannot rot until the next GPU."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.svd_speed import parse_arguments

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments, "--toy", "--shape", "2x64x64", "--steps", "2"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_speed_compares_in_one_run_and_keeps_the_newest(tmp_path: Path) -> None:
    result = tmp_path / "speed.json"
    device = platform.processor() or platform.machine()
    old = {"device": device, "architecture": "toy", "shape": "2x64x64", "steps": 2, "guidance": 3.0}
    both: dict[str, Any] = {"variants": {"exact": {}, "b0": {}}}
    others = [{**old, "variants": {"fast": {}}}, {**old, **both}, {**old, **both, "device": "another"}]
    result.write_text(json.dumps([{**old, **both, "without": ["geglu"]}, *others]))
    done = run("bench.svd_speed", "--repeats", "1", "--warm-ups", "1", "--without", "geglu", "--result", str(result))
    assert done.returncode == 0, done.stderr
    *kept, new = json.loads(result.read_text())
    assert kept == others
    assert new["without"] == ["geglu"]
    assert [each["median_s"] > 0 for each in new["variants"].values()] == [True, True]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--variants", "exakt"), "no such name: exakt; there are b0"),
        (("--without", "geglu,gelu"), "no such name: gelu; there are cross-attention"),
        (("--repeats", "0"), "must be 1 or more"),
    ],
)
def test_an_option_that_would_measure_something_else_is_refused(
    option: tuple[str, str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.svd_speed", *option])
    with pytest.raises(SystemExit) as caught:
        parse_arguments()
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_our_error_is_within_its_bound_of_diffusers_own(tmp_path: Path) -> None:
    result = tmp_path / "exactness.json"
    done = run("bench.svd_exactness", "--looks", "2", "--result", str(result))
    assert done.returncode == 0, done.stdout + done.stderr
    errors = json.loads(result.read_text())["errors"]
    assert all(each["ours"] <= 1.2 * each["diffusers"] for each in errors.values())
    assert {"UNet, step 1", "UNet, step 2", "decoder", "latents of a run"} <= set(errors)


def test_memory_and_start_are_measured_on_a_checkpoint(tmp_path: Path) -> None:
    checkpoint = ("--checkpoint", str(ROOT / "worker" / "svd" / "tiny"))
    done = run("bench.svd_memory", *checkpoint, "--chunks", "1", "--way", "exact none")
    assert json.loads(done.stdout)["chunk_size"] == 1, done.stderr
    done = run("bench.svd_start", *checkpoint, "--compiled", str(tmp_path / "compiled"))
    assert len(json.loads(done.stdout)["frames_sha256"]) == 64, done.stderr
