"""Pictures of a run for its page: scenes before and after, small, as many as have room."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sfseg.errors import DataError
from sfseg.report.drawing import Pixels
from sfseg.report.html import data_uri
from sfseg.report.pages.png_top import read_top

SCENES = 12
"""Of all, the most that a page shows."""
TILE = 480
"""Largest width of a scene's picture."""
WIDE = 1400
"""Largest width of other pictures."""
ROOM = 6_000_000
"""Characters that all scenes of a page may take."""
LARGEST = 1 << 24
"""Pixels of a sheet that are looked at; rows below are not."""


@dataclass
class Scene:
    """One evaluation image; pictures are addresses that hold them.

    fixed: title and picture of what does not change.
    changing: title, picture before and picture after.
    """

    domain: str
    fixed: list[tuple[str, str]]
    changing: list[tuple[str, str, str]]

    @property
    def size(self) -> int:
        """Characters of its pictures."""
        pairs = sum(len(before) + len(after) for _, before, after in self.changing)
        return pairs + sum(len(picture) for _, picture in self.fixed)


@dataclass
class Layout:
    """Where what is in the sheets of a run.

    Raises:
        ValueError: it is no such description.
    """

    rows: list[str]
    columns: list[str]
    caption: int
    height: int
    width: int

    @classmethod
    def of(cls, sheet: dict[str, Any]) -> "Layout":
        """The layout that a run has noted."""
        try:
            (height, width), caption = map(int, sheet["tile"]), int(sheet["caption"])
            rows, columns = list(map(str, sheet["rows"])), list(map(str, sheet["columns"]))
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"panels/sheet.json is damaged: {error}") from error
        if not (min(height, width) > 0 and caption >= 0 and rows and len(columns) == 4):
            raise ValueError("panels/sheet.json is of other sheets")
        return cls(rows, columns, caption, height, width)

    def top(self, row: int) -> int:
        """Where the tiles of a row begin."""
        return 2 * self.caption + row * (self.caption + self.height)

    def tiles(self, sheet: Pixels, row: int) -> list[Pixels]:
        """The tiles of a row, from left to right."""
        strip = sheet[self.top(row) : self.top(row) + self.height]
        return [strip[:, k * self.width : (k + 1) * self.width] for k in range(len(self.columns))]


def scenes(before: Path, after: Path, layout: Layout) -> Iterator[Scene]:
    """Scenes of two sheets, evenly spread over those that can be looked at.

    Args:
        before: sheet of the first model.
        after: of the last; it may be the same.
        layout: of both.

    Raises:
        DataError: a sheet cannot be read, or is another one.
    """
    width = layout.width * len(layout.columns)
    most = max(1, (LARGEST // width - 2 * layout.caption) // (layout.caption + layout.height))
    number = min(len(layout.rows), most)
    last = read_top(after, layout.top(number))
    first = last if before == after else read_top(before, layout.top(number))
    for path, sheet in ((before, first), (after, last)):
        if sheet.shape[1] != width or len(sheet) < layout.top(number) - layout.caption:
            raise DataError(f"{path} is not of the size that panels/sheet.json says")
    room = ROOM
    for row in np.linspace(0, number - 1, min(SCENES, number)).round().astype(int).tolist():
        one = _scene(layout, layout.tiles(first, row), layout.tiles(last, row), row)
        room -= one.size
        if room < 0:
            return
        yield one


def _scene(layout: Layout, first: list[Pixels], last: list[Pixels], row: int) -> Scene:
    titles = layout.columns
    return Scene(
        layout.rows[row],
        [(title, shrunk(tile, TILE)) for title, tile in zip(titles[:2], last[:2], strict=True)],
        [
            (title, shrunk(old, TILE), shrunk(new, TILE))
            for title, old, new in zip(titles[2:], first[2:], last[2:], strict=True)
        ],
    )


def shrunk(image: Pixels, width: int = WIDE) -> str:
    """An RGB picture as an address that holds it, at most as wide as this."""
    if image.shape[1] > width:
        size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return data_uri(image)
