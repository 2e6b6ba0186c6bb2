"""The side-by-side video: every cell as a labelled tile, all of them in step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cli.experiments.board import Board, Image, Page, page_paths, pages, read_tiles
from cli.experiments.cells import Cell
from shared.video import write_mp4

#: a tile is looked at, not worked on.
_CRF = 22


def write_side_by_side(cells: Sequence[Cell], videos: Mapping[int, Path], folder: Path) -> list[Path]:
    """Write `side-by-side.mp4`, in pages if the grid is large.

    All videos start together and run at their own rates; one that ends early shows its last frame.

    Args:
        videos: by cell; what is absent gets a grey tile.

    Raises:
        VideoUnreadableError: a video cannot be decoded.
        EncodingError: ffmpeg failed.
    """
    parts = pages(cells)
    paths = list(page_paths(folder, "side-by-side", ".mp4", len(parts)))
    for page, path in zip(parts, paths, strict=True):
        _write(page, videos, path)
    return paths


def _write(page: Page, videos: Mapping[int, Path], path: Path) -> None:
    tiles = read_tiles(page, videos)
    if not tiles:
        return
    board = Board(page, [(row[0].image, "") for row in page.rows])
    shown: list[tuple[int, int, list[Image], int]] = []
    for row_number, row in enumerate(page.rows):
        for column, cell in enumerate(row):
            if cell.index in tiles:
                frames = tiles[cell.index]
                rate = round(len(frames) / cell.result["duration_s"]) if cell.result else 1
                shown.append((row_number, column, frames, rate))
            else:
                board.put_nothing(row_number, column, cell.status)
    fps = max(rate for *_, rate in shown)
    duration_s = max(len(frames) / rate for *_, frames, rate in shown)
    pictures = []
    for number in range(round(duration_s * fps)):
        for row_number, column, frames, rate in shown:
            board.put(row_number, column, frames[min(number * rate // fps, len(frames) - 1)])
        pictures.append(board.picture())
    width, height = pictures[0].size
    raw = b"".join(picture.tobytes() for picture in pictures)
    write_mp4(path, raw, width=width, height=height, fps=fps, crf=_CRF)
