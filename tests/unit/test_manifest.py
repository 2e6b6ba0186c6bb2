"""manifest.json."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from shared.catalogue import find_entry, resolve
from shared.params import GenerationOptions, GenerationParams
from worker.double import DoublePipeline
from worker.manifest import Manifest, build_manifest, describe_file
from worker.pipeline import Generation

PARAMS = resolve(GenerationOptions(seed=7, decode_chunk_size=8), find_entry("tiny"))


def manifest(created_at: datetime = datetime(2026, 1, 2, tzinfo=UTC)) -> Manifest:
    return build_manifest(
        job_id="job_1",
        attempt=2,
        created_at=created_at,
        input_sha256="ab",
        params=PARAMS,
        info=DoublePipeline().info,
        generation=Generation(
            image=np.zeros((2, 2, 3), np.uint8),
            frames=np.zeros((1, 2, 2, 3), np.uint8),
            decode_chunk_size=4,
        ),
        files=[],
        timings_s={"denoise": 1.23456, "encode": 0.5},
    )


def test_the_manifest_tells_requested_from_used_chunk_size() -> None:
    content = json.loads(manifest().to_bytes())
    assert content["params"]["decode_chunk_size"] == 8
    assert content["decode_chunk_size_used"] == 4


def test_its_parameters_are_enough_to_ask_for_the_same_video_again() -> None:
    content = json.loads(manifest().to_bytes())
    assert GenerationParams.model_validate(content["params"]) == PARAMS
    assert content["params"]["seed"] == 7
    assert {"model", "source", "revision", "engine", "dtype", "num_threads", "versions"} <= set(content["pipeline"])
    assert content["timings_s"] == {"denoise": 1.235, "encode": 0.5}


def test_it_reads_back_as_written() -> None:
    assert Manifest.model_validate_json(manifest().to_bytes()) == manifest()


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        manifest(created_at=datetime(2026, 1, 2))  # noqa: DTZ001


def test_a_file_is_described_by_size_checksum_and_media_type(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    described = describe_file(tmp_path / "x", "video.mp4")
    assert (described.name, described.media_type, described.size_bytes) == ("video.mp4", "video/mp4", 3)
    assert described.sha256 == hashlib.sha256(b"abc").hexdigest()
    assert describe_file(tmp_path / "x", "frames/frame_0000.webp").media_type == "image/webp"
