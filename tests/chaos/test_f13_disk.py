"""F13: the disk under the local object store is full, or its folder must not be written.

A limit on the size of files stands for a full disk: the same `write` fails, as root and as anybody else.
"""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import Process, eventually
from trial import Trial, await_log, everyone

from shared.video import ffmpeg_executable

#: without these, root meets permissions like anybody else.
_AS_ANYBODY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
_RETRIES = {"retry_base_s": 0.2, "retry_max_s": 0.5}


@contextmanager
def full_disk(process: Process) -> Iterator[None]:
    # Decoders write nothing, and are another user's where root starts them.
    pids = [one.pid for one in everyone(process) if "api.decoder" not in one.cmdline()]
    before = [resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids]
    for pid, (_, hard) in zip(pids, before, strict=True):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        for pid, limits in zip(pids, before, strict=True):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


@contextmanager
def forbidden(folder: Path) -> Iterator[None]:
    mode = stat.S_IMODE(folder.stat().st_mode)
    folder.chmod(0o500)
    try:
        yield
    finally:
        folder.chmod(mode)


def files(trial: Trial) -> list[str]:
    """All that lies in the store's folder, partial objects included."""
    root = Path(trial.service.settings.object_store)
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_a_full_disk_accepts_nothing_loses_nothing_and_keeps_no_half_object(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The disk with the temporary files has room.
    roomy = tmp_path / "ffmpeg"
    roomy.write_text(f'#!/bin/sh\nulimit -S -f unlimited\nexec {ffmpeg_executable()} "$@"\n')
    roomy.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(roomy))
    worker = trial.start(worker={"attempt_deadline_s": 12, **_RETRIES})
    with full_disk(trial.service.processes[-1]):  # the API
        refused = trial.offer(key="once")
        assert (refused.status, refused.json()["code"]) == (503, "storage_unavailable")
        assert (trial.count_jobs(), files(trial)) == (0, [])
    job = trial.submit(num_inference_steps=80)
    before = files(trial)
    trial.await_step(job)
    with full_disk(worker):
        eventually(lambda: trial.outcomes(job)[0] == "retried")
        (first,) = trial.attempts(job)
        assert (first.error_code, "File too large" in first.error_message) == ("storage_unavailable", True)
        assert files(trial) == before
    trial.await_status(job, "succeeded")
    trial.judge()
    assert [name for name in files(trial) if name.startswith(".partial")] == []


def test_a_folder_that_must_not_be_written_is_waited_for_with_a_clear_error(trial: Trial) -> None:
    service = trial.service
    prefix = _AS_ANYBODY if os.geteuid() == 0 else ()
    service.await_api(service.start("api.serve", prefix=prefix))
    service.start_maintainer()
    worker = service.start("worker", prefix=prefix, model="double")
    service.await_worker(worker)
    job = trial.submit(num_inference_steps=80)
    trial.await_step(job)
    root = Path(service.settings.object_store)
    jobs = root / "jobs"
    jobs.mkdir(exist_ok=True)
    with forbidden(jobs):
        await_log(worker, "waits for the object store: cannot store an object: Permission denied")
        assert list(trial.store.list_keys("jobs/")) == []
    trial.await_status(job, "succeeded")
    assert trial.outcomes(job) == ["succeeded"]
    with forbidden(root), forbidden(root / ".partial"):
        refused = trial.offer(key="once")
        assert (refused.status, refused.json()["code"]) == (503, "storage_unavailable")
    trial.judge()
