"""The second half of an attempt: measure, encode, upload, finish. Touches neither the pipeline nor its device.

It is a stage of its own so that it can run beside the next job's denoising: an attempt brings its own lease, flags and
deadline along.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.errors import AnimaticError, StorageError
from shared.ids import show_id
from shared.jobs.end import end_job
from shared.measures import Measures
from shared.params import FramesFormat
from shared.states import AttemptOutcome, JobStatus, Phase
from shared.tables import Attempt as AttemptRow
from worker.attempt import Attempt
from worker.lease import AttemptStopped, StopReason
from worker.manifest import ManifestFile, build_manifest, describe_file
from worker.measures import measure
from worker.media import encode_frames, encode_mp4
from worker.pipeline import Generation, PipelineInfo

_UPLOAD_PAUSE_S = 1.0
_UPLOAD_PAUSE_MAX_S = 15.0

log = logging.getLogger(__name__)


def finish_attempt(attempt: Attempt, generation: Generation, info: PipelineInfo) -> None:
    """Turn frames into a stored, verified result and end the job as succeeded.

    Raises:
        AttemptStopped: canceled, released, or no longer ours.
        GenerationError: the frames cannot be encoded, or the deadline has passed.
        StorageError: the store was down until the deadline.
    """
    measures = _measure(attempt, generation) if attempt.services.settings.measures else None
    with attempt.timed("encode"):
        files = _encode(attempt, generation)
    attempt.lease.progress(Phase.UPLOAD)
    with attempt.timed("upload"):
        for file in files:
            _upload(attempt, file.name, attempt.folder / file.name, file.media_type)
    manifest = build_manifest(
        job_id=show_id("job", attempt.claim.job_id),
        attempt=attempt.claim.attempt,
        created_at=attempt.claim.started_at,
        input_sha256=attempt.claim.input_sha256,
        params=attempt.claim.params,
        info=info,
        generation=generation,
        files=files,
        timings_s=attempt.timings_s,
        measures=measures,
    )
    path = attempt.folder / "manifest.json"
    path.write_bytes(manifest.to_bytes())
    # Last: where there is a manifest, everything it names is there too.
    _upload(attempt, path.name, path, "application/json")
    attempt.lease.progress(Phase.FINISH)
    _commit(attempt, _result(attempt, generation, info, [*files, describe_file(path, path.name)]), measures)


def _measure(attempt: Attempt, generation: Generation) -> Measures:
    def on_pair() -> None:
        attempt.lease.progress(Phase.ENCODE)

    try:
        with attempt.timed("measure"):
            measures = measure(generation.frames, generation.image, on_pair)
    except AnimaticError:  # from the lease: the attempt must stop
        raise
    except Exception:  # a video is worth more than its measures
        log.exception("%s cannot be measured", show_id("job", attempt.claim.job_id))
        measures = Measures()
    return measures.model_copy(update={"drift": generation.drift})


def _encode(attempt: Attempt, generation: Generation) -> list[ManifestFile]:
    attempt.lease.progress(Phase.ENCODE)
    params = attempt.claim.params
    video = attempt.folder / "video.mp4"
    encode_mp4(generation.frames, params.playback_fps, video)
    files = [describe_file(video, video.name)]
    if params.frames_format is not FramesFormat.NONE:
        attempt.lease.progress(Phase.ENCODE)
        paths = encode_frames(generation.frames, params.frames_format, attempt.folder / "frames")
        files += [describe_file(path, f"frames/{path.name}") for path in paths]
    return files


def _upload(attempt: Attempt, name: str, path: Path, media_type: str) -> None:
    """Upload one file, waiting for the store as long as the attempt may: generating again costs far more."""
    pause_s = _UPLOAD_PAUSE_S
    while True:
        try:
            attempt.services.store.put(attempt.prefix + name, path, media_type=media_type)
            attempt.lease.progress(Phase.UPLOAD)
            return
        except StorageError as error:
            if attempt.lease.remaining_s < pause_s:
                raise
            log.warning("%s waits for the object store: %s", attempt.claim.job_id, error)
        end = time.monotonic() + pause_s
        while time.monotonic() < end:
            time.sleep(0.2)
            attempt.lease.progress(Phase.UPLOAD)  # waiting is no stall
        pause_s = min(2 * pause_s, _UPLOAD_PAUSE_MAX_S)


def _result(attempt: Attempt, generation: Generation, info: PipelineInfo, files: list[ManifestFile]) -> dict[str, Any]:
    def stored(file: ManifestFile) -> dict[str, Any]:
        return {"key": attempt.prefix + file.name, **file.model_dump(exclude={"name"})}

    num_frames, height, width, _ = generation.frames.shape
    return {
        "video": stored(files[0]),
        "frames": [stored(file) for file in files[1:-1]],
        "manifest": stored(files[-1]),
        "num_frames": num_frames,
        "width": width,
        "height": height,
        "duration_s": round(num_frames / attempt.claim.params.playback_fps, 3),
        # The manifest has it all; this is what decides whether an experiment may use the result again.
        "made_with": {
            "revision": info.revision,
            "engine": info.engine,
            "decode_chunk_size": generation.decode_chunk_size,
        },
    }


def _commit(attempt: Attempt, result: dict[str, Any], measures: Measures | None) -> None:
    claim = attempt.claim

    def write(session: Session) -> bool:
        ended = end_job(
            session,
            claim.holds(),
            JobStatus.SUCCEEDED,
            public_url=attempt.services.settings.public_url,
            reason="succeeded",
            result=result,
            measures=measures.model_dump() if measures else None,
        )
        if ended is not None:
            return True
        # Perhaps it was us, and only the answer to COMMIT was lost: this attempt's own record tells.
        outcome = session.scalars(
            select(AttemptRow.outcome).where(AttemptRow.job_id == claim.job_id, AttemptRow.attempt == claim.attempt)
        ).one()
        return outcome == AttemptOutcome.SUCCEEDED

    if not attempt.persist(write):
        raise AttemptStopped(StopReason.LOST)
