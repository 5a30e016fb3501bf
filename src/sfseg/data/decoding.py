"""From the pixels of a label file to class ids."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from sfseg.data.classes_file import CHANNELS
from sfseg.data.geometry import Image
from sfseg.data.label_ids import INVALID
from sfseg.data.mask_advice import colours_error, ids_error
from sfseg.labels import Colour, LabelSpace
from sfseg.types import IGNORE

STRIP = 1 << 17
"""Pixels at a time that stay in the processor's cache."""

Stored = NDArray[np.integer]
"""Pixels of a label file: ids (H, W), or RGB (H, W, 3)."""
Rgb = Literal["palette", "unnamed", "red", "green", "blue", "refuse"]
"""What a label of three channels holds: colours of a palette, colours that the classes' file does
not name, ids in one channel, or a mistake."""


@dataclass(frozen=True)
class Palette:
    """Which class each colour of a mask stands for; black that none has is void.

    Args:
        classes: colour -> class id, or IGNORE.
        nearest: a colour that is not among them is read as the nearest one, if it is no farther
            than this (Euclidean, 0 to 442), and else as void; None refuses it.
    """

    classes: Mapping[Colour, int]
    nearest: float | None = None

    @cached_property
    def codes(self) -> dict[int, int]:
        """The same with colours as numbers, black included."""
        return {0: IGNORE} | {r << 16 | g << 8 | b: k for (r, g, b), k in self.classes.items()}

    def ids(self, rgb: Stored) -> tuple[Image, NDArray[np.bool_]]:
        """Class ids of an RGB mask of 8 bits a channel, and which of its colours are known."""
        code = rgb.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
        if self.nearest is not None:
            found, inverse = np.unique(code, return_inverse=True)
            ids = self._nearest_ids(found)[inverse].reshape(code.shape)
            return ids, np.ones(code.shape, np.bool_)
        ids, known = np.full(code.shape, IGNORE, np.uint8), np.zeros(code.shape, np.bool_)
        for colour, k in self.codes.items():
            here = code == colour
            ids[here] = k
            known |= here
        return ids, known

    def _nearest_ids(self, found: NDArray[np.int32]) -> Image:
        """(N,) class ids of colours as numbers."""
        best = np.full(found.shape, np.inf)
        ids = np.full(found.shape, IGNORE, np.uint8)
        for colour, k in self.codes.items():
            distance = sum(
                np.square((found >> shift & 255) - (colour >> shift & 255)) for shift in (16, 8, 0)
            )
            closer = distance < best
            best[closer], ids[closer] = distance[closer], k
        assert self.nearest is not None
        ids[best > self.nearest**2] = IGNORE
        return ids


@dataclass(frozen=True, eq=False)
class Decoding:
    """How the label files of a set are read.

    Args:
        labels: the label space that the ids are mapped to.
        table: stored id -> class id, IGNORE, or INVALID; of 256 or 65,536 entries.
        rgb: how labels of three channels are read. Where all three are equal, they hold ids,
            unless the palette has these greys.
        palette: the colours of ``rgb="palette"``.
        where: the file that says so, for messages; empty where none does.
    """

    labels: LabelSpace
    table: NDArray[np.uint8]
    rgb: Rgb = "refuse"
    palette: Palette | None = None
    where: str = ""

    def __post_init__(self) -> None:
        if (self.rgb == "palette") != (self.palette is not None):
            raise ValueError(f"palette must be given for rgb='palette' alone, got {self.rgb!r}")

    @cached_property
    def is_identity(self) -> bool:
        """Whether stored ids of 8 bits are class ids already, the common case: no look-up then."""
        table = self.table[:256]
        kept = np.flatnonzero(table != INVALID)
        return bool(
            (table[kept] == kept).all()
            and (kept[:-1] == np.arange(len(kept) - 1)).all()
            and table[IGNORE] == IGNORE
        )

    @property
    def meaning(self) -> str:
        """All that class ids depend on besides the file and the names of the classes."""
        return f"{self.table.tobytes().hex()}{self.palette or ''}"

    def __call__(self, stored: Stored, path: Path) -> Image:
        """Class ids (H, W) of a label file, perhaps read-only.

        Raises:
            DataError: ids outside the table, or colours outside the palette; names them, the file
                and how many pixels.
        """
        ids = self.ids_in(stored)
        if ids is not None:
            return self._of_ids(ids, path)
        if self.palette is None or stored.dtype != np.uint8:
            raise colours_error(self, stored, path)
        found, known = self.palette.ids(stored)
        if not known.all():
            raise colours_error(self, stored, path, ~known)
        return found

    def ids_in(self, stored: Stored) -> Stored | None:
        """The stored ids (H, W) of a label file; None where it holds colours."""
        if stored.ndim == 2:
            return stored
        if self.rgb in CHANNELS:
            return stored[:, :, CHANNELS.index(self.rgb)]
        return stored[:, :, 0] if self._are_ids(stored) else None

    def _are_ids(self, stored: Stored) -> bool:
        """Whether three equal channels hold ids rather than greys of the palette."""
        first = stored[:, :, 0]
        if not (np.array_equal(first, stored[:, :, 1]) and np.array_equal(first, stored[:, :, 2])):
            return False
        if self.palette is None:
            return True
        found = np.unique(first)
        greys = {(int(v), int(v), int(v)) for v in found}
        is_known = found.max() < len(self.table) and (self.table[found] != INVALID).all()
        return bool(is_known) and not greys <= {(0, 0, 0), *self.palette.classes}

    def _of_ids(self, stored: Stored, path: Path) -> Image:
        if stored.dtype.itemsize > 1 and (stored.min() < 0 or stored.max() > 255):
            return self._of_wide_ids(stored, path)
        ids: Image = np.ascontiguousarray(stored, dtype=np.uint8)
        if self.is_identity and largest_id(ids) < self.labels.num_classes:
            return ids
        mapped = np.asarray(cv2.LUT(ids, self.table[:256]), dtype=np.uint8)
        if largest_id(mapped) == INVALID:
            raise ids_error(self, ids, mapped == INVALID, path)
        return mapped

    def _of_wide_ids(self, stored: Stored, path: Path) -> Image:
        inside = (stored >= 0) & (stored < len(self.table))
        mapped = np.where(inside, self.table[np.where(inside, stored, 0)], INVALID)
        if (mapped == INVALID).any():
            raise ids_error(self, stored, mapped == INVALID, path)
        return mapped.astype(np.uint8)


def largest_id(ids: Image) -> int:
    """The largest id that is not IGNORE, in one pass; -1 when all are."""
    flat, largest = ids.ravel(), 0
    for start in range(0, flat.size, STRIP):
        # IGNORE wraps around to 0.
        largest = max(largest, int((flat[start : start + STRIP] + np.uint8(1)).max()))
    return largest - 1
