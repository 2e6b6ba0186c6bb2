"""What the maintainer orders from `log_runs`, and what that reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True)


class Video(_Message):
    """One video of a run."""

    #: `image_0`; what it is logged as.
    key: str
    #: name of the image.
    caption: str
    #: in the object store.
    object_key: str


class Run(_Message):
    """One run: all images at one point of the grid."""

    #: the same for the same jobs: a run that was logged is known by it, and a retried cell makes a new one.
    id: str
    name: str
    group: str
    tags: list[str]
    config: dict[str, Any]
    #: `image_0/flow_px` and so on, and under its bare name a measure's mean over the images.
    metrics: dict[str, float]
    videos: list[Video]


class Order(_Message):
    """What to log, and where."""

    project: str
    entity: str | None
    #: None: as `WANDB_MODE` says, else online.
    mode: str | None
    #: where runs that were logged offline end up, as `wandb sync` takes them.
    folder: Path
    #: s that wandb may take to begin a run.
    timeout_s: float
    #: where the videos are: see `video_path`.
    videos: Path
    #: gets a line of JSON for each run that is done, or for what went wrong.
    report: Path
    runs: list[Run]

    def video_path(self, run: Run, video: Video) -> Path:
        return self.videos / f"{run.id}-{video.key}.mp4"


class Reported(_Message):
    """One line of the report."""

    #: of the run that is done.
    run_id: str | None = None
    #: None: it was written offline.
    url: str | None = None
    error: str | None = None
    #: trying again would not help.
    permanent: bool = False
