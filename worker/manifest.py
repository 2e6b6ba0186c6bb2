"""`manifest.json`: everything needed to make the same video again, and to trust the one that is there."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from datetime import datetime
from mimetypes import guess_type
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from shared.measures import Measures
from shared.params import GenerationParams
from worker.pipeline import Generation, PipelineInfo


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ManifestFile(_Part):
    """One file of the result."""

    name: str = Field(description="Name under the attempt's prefix, such as `video.mp4` or `frames/frame_0000.png`.")
    media_type: str
    size_bytes: int
    sha256: str = Field(description="Hexadecimal.")


class ManifestPipeline(_Part):
    """What ran, and on what."""

    model: str = Field(description="Catalogue name.")
    source: str = Field(description="Hub repository or directory of the weights.")
    revision: str = Field(description="Commit of the repository, or `sha256:…` over the checkpoint's files.")
    engine: str = Field(description="Engine tier; `stock` is diffusers' pipeline, unmodified.")
    device: str
    dtype: str
    offload: str
    num_threads: int = Field(description="CPU threads of torch; changes the rounding on the CPU.")
    versions: dict[str, str]


class Manifest(_Part):
    """The content of `manifest.json`."""

    schema_version: Literal[1] = Field(
        1, description="Grows when a field changes its meaning or goes away; new fields do not count."
    )
    job_id: str
    attempt: int
    created_at: AwareDatetime
    input_sha256: str = Field(description="Of the input image's file as it was stored, hexadecimal.")
    params: GenerationParams = Field(description="As resolved, with the seed; decode_chunk_size as requested.")
    decode_chunk_size_used: int = Field(
        description="Frames decoded at once; smaller than requested if memory ran out. It changes the output."
    )
    pipeline: ManifestPipeline
    timings_s: dict[str, float] = Field(description="Seconds by stage, in their order.")
    measures: Measures | None = Field(description="Of the video, if they were taken.")
    files: list[ManifestFile]

    def to_bytes(self) -> bytes:
        """The file's content."""
        return self.model_dump_json(indent=2).encode() + b"\n"


def describe_file(path: Path, name: str) -> ManifestFile:
    """Size, SHA-256 and media type of a file.

    Args:
        path: where it lies now.
        name: what it is called in the result.
    """
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ManifestFile(
        name=name,
        media_type=guess_type(name)[0] or "application/octet-stream",
        size_bytes=path.stat().st_size,
        sha256=sha256,
    )


def build_manifest(
    *,
    job_id: str,
    attempt: int,
    created_at: datetime,
    input_sha256: str,
    params: GenerationParams,
    info: PipelineInfo,
    generation: Generation,
    files: list[ManifestFile],
    timings_s: dict[str, float],
    measures: Measures | None = None,
) -> Manifest:
    """Put a manifest together.

    Args:
        job_id: as shown, `job_…`.
        attempt: which try of the job made this.
        created_at: the database's time, timezone-aware.
        input_sha256: of the input's file, hexadecimal.
        params: as resolved.
        info: the pipeline's.
        generation: what the pipeline gave.
        files: the result's, without the manifest itself.
        timings_s: of all stages, in their order, s.
        measures: of the video.
    """
    return Manifest(
        job_id=job_id,
        attempt=attempt,
        created_at=created_at,
        input_sha256=input_sha256,
        params=params,
        decode_chunk_size_used=generation.decode_chunk_size,
        pipeline=ManifestPipeline(**asdict(info)),
        timings_s={stage: round(seconds, 3) for stage, seconds in timings_s.items()},
        measures=measures,
        files=files,
    )
