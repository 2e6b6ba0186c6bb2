"""What an experiment leaves on disk: the videos, a table, and, with Pillow and ffmpeg, pictures to compare."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.client import ApiError, Client
from cli.download import fetch_file
from cli.experiments.cells import Cell
from cli.failure import CommandError
from cli.output import note, progress_bar, standard_error
from cli.patience import patiently

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
#: file systems take 255 bytes, with a suffix.
_FILE_NAME_BYTES_MAX = 200
_NO_PICTURES = "no contact sheet and no side-by-side video: {}; pip install 'animatic[sweep]', then --attach"


def write_results(client: Client, cells: Sequence[Cell], folder: Path) -> dict[str, list[Path]]:
    """Fetch the videos, and write the table, the contact sheet and the side-by-side video.

    What is there already and whole is not fetched again.

    Returns:
        The files by kind.

    Raises:
        CommandError: a file cannot be written, or what came is not what the service promised.
    """
    videos, timings = _fetch(client, cells, folder / "videos")
    written = {"videos": list(videos.values()), "table": [write_table(cells, timings, folder / "results.csv")]}
    if not videos:
        return written
    if reason := pictures_missing():
        note(f"warning: {_NO_PICTURES.format(reason)}")
        return written
    from cli.experiments.contact_sheet import write_contact_sheets
    from cli.experiments.side_by_side import write_side_by_side

    try:
        written["contact sheet"] = write_contact_sheets(cells, videos, folder)
        written["side by side"] = write_side_by_side(cells, videos, folder)
    except OSError as error:
        raise CommandError(f"{error.filename or folder} cannot be written: {error.strerror or error}") from None
    return written


def pictures_missing() -> str | None:
    """Why there can be no pictures; None if there can."""
    try:
        import imageio_ffmpeg
        import PIL.Image  # noqa: F401

        imageio_ffmpeg.get_ffmpeg_exe()
    except ImportError as error:
        return f"{error.name} is not installed"
    except RuntimeError:
        return "there is no ffmpeg for this platform"
    return None


def write_table(cells: Sequence[Cell], timings: Mapping[int, Mapping[str, float]], path: Path) -> Path:
    """One line per cell: parameters, measures, timings, URLs.

    Args:
        timings: of each cell, seconds by stage, as its manifest has them.
    """
    rows = [_row(cell, timings.get(cell.index, {})) for cell in cells]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from None
    return path


def _cell(value: Any) -> Any:
    """What a spreadsheet would take for a formula, as text. Source: OWASP, CSV Injection."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


def _row(cell: Cell, timings_s: Mapping[str, float]) -> dict[str, Any]:
    job = cell.job or {}
    result = cell.result or {}
    return {
        "cell": cell.index,
        "image": cell.image,
        **cell.values,
        **{name: value for name, value in job.get("params", {}).items() if name not in cell.values},
        "status": cell.status,
        "error": (job.get("error") or {}).get("message"),
        **(job.get("measures") or {}),
        "queued_s": cell.seconds("created_at", "started_at"),
        "run_s": cell.seconds("started_at", "finished_at"),
        **{f"{stage}_s": seconds for stage, seconds in timings_s.items()},
        "reused": cell.reused,
        "tries": cell.tries,
        "job": job.get("id"),
        "input": job.get("input_id"),
        "job_url": job.get("links", {}).get("self"),
        "video_url": (result.get("video") or {}).get("url"),
        "manifest_url": (result.get("manifest") or {}).get("url"),
    }


def _fetch(
    client: Client, cells: Sequence[Cell], folder: Path
) -> tuple[dict[int, Path], dict[int, Mapping[str, float]]]:
    """The videos, and what the manifests say of the time each stage took, by cell."""
    videos: dict[int, Path] = {}
    timings: dict[int, Mapping[str, float]] = {}
    done = [(cell, cell.result) for cell in cells if cell.result is not None]
    with progress_bar(standard_error()) as progress:
        task = progress.add_task("videos", total=len(done))
        for cell, result in done:
            try:
                path = _fetch_whole(client, result["video"], folder / f"{_file_name(cell)}.mp4")
                manifest = _fetch_whole(client, result["manifest"], folder / f"{_file_name(cell)}.json")
            except ApiError as error:
                if error.status != 410:
                    raise
                note(f"warning: the files of cell {cell.index}: {error.message}")  # kept only so long
            else:
                videos[cell.index] = path
                timings[cell.index] = json.loads(manifest.read_bytes())["timings_s"]
            progress.advance(task)
    return videos, timings


def _fetch_whole(client: Client, file: dict[str, Any], target: Path) -> Path:
    if target.exists() and hashlib.sha256(target.read_bytes()).hexdigest() == file["sha256"]:
        return target
    return patiently(lambda: fetch_file(client, file, target))


def _file_name(cell: Cell) -> str:
    values = "_".join(f"{name}={value}" for name, value in cell.values.items())
    name = re.sub(r"[^\w.=-]+", "-", f"{cell.index:03d}_{cell.image}_{values}")
    return name.encode()[:_FILE_NAME_BYTES_MAX].decode(errors="ignore")
