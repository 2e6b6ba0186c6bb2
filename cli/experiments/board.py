"""A board of tiles with labels: images as rows, values as columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from cli.experiments.cells import Cell, grid_points, point_label
from cli.output import printable
from shared.video import read_frames

#: what no longer fits goes to a next page.
_COLUMNS_MAX = 12
_ROWS_MAX = 8
#: width of the tiles together, px.
_WIDTH_PX = 1536
_TILE_MAX_PX = 256
_MARGIN_PX = 4
#: between images that have several rows each.
_GAP_PX = 12
_TEXT_PX = 14
_BACKGROUND, _INK, _FAINT, _EMPTY = "white", "black", "#707070", "#e0e0e0"

Image = PIL.Image.Image


@dataclass(frozen=True)
class Page:
    """A part of the grid that fits on one picture."""

    #: rows of cells: each of one image.
    rows: list[list[Cell]]
    #: of a tile, px.
    width: int
    height: int

    @property
    def title(self) -> str:
        return " · ".join(self.rows[0][0].values)

    @property
    def columns(self) -> list[str]:
        return [point_label(cell.values) for cell in self.rows[0]]


def pages(cells: Sequence[Cell]) -> list[Page]:
    """Cut the grid into pages; tiles have the shape of the first video; there must be one."""
    per_row = len(grid_points(cells))
    rows = [list(cells[start : start + per_row]) for start in range(0, len(cells), per_row)]
    size = next(cell.result for cell in cells if cell.result)
    width = min(_TILE_MAX_PX, _WIDTH_PX // min(per_row, _COLUMNS_MAX))
    height = max(1, round(width * size["height"] / size["width"]))
    return [
        Page([row[left : left + _COLUMNS_MAX] for row in rows[top : top + _ROWS_MAX]], width, height)
        for top in range(0, len(rows), _ROWS_MAX)
        for left in range(0, per_row, _COLUMNS_MAX)
    ]


def page_paths(folder: Path, name: str, suffix: str, count: int) -> Iterator[Path]:
    """`name.png`, or `name-1.png` and so on if there are several."""
    for number in range(1, count + 1):
        yield folder / (f"{name}{suffix}" if count == 1 else f"{name}-{number}{suffix}")


def read_tiles(page: Page, videos: Mapping[int, Path]) -> dict[int, list[Image]]:
    """The frames of the page's videos, at the tiles' size, by cell; cells without a video are absent."""
    return {
        cell.index: [
            PIL.Image.frombytes("RGB", (page.width, page.height), frame)
            for frame in read_frames(videos[cell.index], page.width, page.height)
        ]
        for row in page.rows
        for cell in row
        if cell.index in videos
    }


class Board:
    """Labels at the top and on the left, and room for tiles."""

    def __init__(self, page: Page, row_labels: Sequence[tuple[str, str]]) -> None:
        """
        Args:
            row_labels: of each row of tiles: a heading, and a smaller line below; either may be empty.
        """
        self._page = page
        self._font: Any = PIL.ImageFont.load_default(_TEXT_PX)
        self._left = max([self._text_width(text) for label in row_labels for text in label] + [0]) + 3 * _MARGIN_PX
        self._top = 2 * (_TEXT_PX + 2 * _MARGIN_PX)
        several = any(not heading for heading, _ in row_labels)
        gaps = [_GAP_PX if several and heading and row else 0 for row, (heading, _) in enumerate(row_labels)]
        self._row_tops = [
            self._top + row * (page.height + _MARGIN_PX) + sum(gaps[: row + 1]) for row in range(len(row_labels))
        ]
        # Even sides: yuv420p has half as many columns and rows of colour.
        width = self._left + len(page.columns) * (page.width + _MARGIN_PX)
        height = self._row_tops[-1] + page.height + _MARGIN_PX
        self._picture = PIL.Image.new("RGB", (width + width % 2, height + height % 2), _BACKGROUND)
        self._draw = PIL.ImageDraw.Draw(self._picture)
        self._label(row_labels)

    def _label(self, row_labels: Sequence[tuple[str, str]]) -> None:
        self._write((self._left, _MARGIN_PX), self._page.title, _FAINT)
        for column, text in enumerate(self._page.columns):
            middle = self._corner(0, column)[0] + (self._page.width - self._text_width(text)) // 2
            self._write((middle, self._top - _TEXT_PX - 2 * _MARGIN_PX), text, _INK)
        for row, (heading, line) in enumerate(row_labels):
            top = self._row_tops[row]
            self._write((_MARGIN_PX, top), heading, _INK)
            self._write((_MARGIN_PX, top + (_TEXT_PX + _MARGIN_PX if heading else 0)), line, _FAINT)

    def put(self, row: int, column: int, tile: Image) -> None:
        self._picture.paste(tile, self._corner(row, column))

    def put_nothing(self, row: int, column: int, why: str) -> None:
        """A grey tile that says why there is no video."""
        x, y = self._corner(row, column)
        self._draw.rectangle((x, y, x + self._page.width - 1, y + self._page.height - 1), fill=_EMPTY)
        self._write((x + _MARGIN_PX, y + _MARGIN_PX), why, _FAINT)

    def picture(self) -> Image:
        """A copy of what is there now."""
        return self._picture.copy()

    def _corner(self, row: int, column: int) -> tuple[int, int]:
        return self._left + column * (self._page.width + _MARGIN_PX), self._row_tops[row]

    def _write(self, at: tuple[int, int], text: str, color: str) -> None:
        self._draw.text(at, printable(text), fill=color, font=self._font)

    def _text_width(self, text: str) -> int:
        length: float = self._font.getlength(printable(text))
        return round(length)
