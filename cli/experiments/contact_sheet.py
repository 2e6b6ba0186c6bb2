"""The contact sheet: some frames of every video; images and time go down, values to the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cli.experiments.board import Board, Image, Page, page_paths, pages, read_tiles
from cli.experiments.cells import Cell

#: of each video: its first, middle and last frame.
_MOMENTS = (0.0, 0.5, 1.0)


def write_contact_sheets(cells: Sequence[Cell], videos: Mapping[int, Path], folder: Path) -> list[Path]:
    """Write `contact-sheet.png`, in pages if the grid is large.

    Args:
        videos: by cell; what is absent gets a grey tile.

    Raises:
        VideoUnreadableError: a video cannot be decoded.
        OSError: a file cannot be written.
    """
    parts = pages(cells)
    paths = list(page_paths(folder, "contact-sheet", ".png", len(parts)))
    for page, path in zip(parts, paths, strict=True):
        _draw(page, videos).save(path, optimize=True)
    return paths


def _draw(page: Page, videos: Mapping[int, Path]) -> Image:
    tiles = read_tiles(page, videos)
    counts = {len(frames) for frames in tiles.values()}
    labels = []
    for row in page.rows:
        for moment in _MOMENTS:
            # Videos of several lengths have no frame number in common.
            when = f"frame {_at(moment, *counts)}" if len(counts) == 1 else f"at {moment:.0%}"
            labels.append((row[0].image if moment == 0 else "", when))
    board = Board(page, labels)
    for row_number, row in enumerate(page.rows):
        for column, cell in enumerate(row):
            for number, moment in enumerate(_MOMENTS):
                place = row_number * len(_MOMENTS) + number
                frames = tiles.get(cell.index)
                if frames is None:
                    board.put_nothing(place, column, cell.status if number == 0 else "")
                else:
                    board.put(place, column, frames[_at(moment, len(frames))])
    return board.picture()


def _at(moment: float, num_frames: int) -> int:
    return round(moment * (num_frames - 1))
