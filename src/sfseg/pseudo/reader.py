"""Pseudo-labels as loader workers see them: mapped, read-only, by any number of processes."""

import time
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfseg.errors import DataError
from sfseg.pseudo.identity import Identity, Size, read_record, read_sizes
from sfseg.types import size_text

PLANES = ("labels.u8", "confidence.u8")
"""One byte a pixel each, image after image."""
ROWS = "rows.u32"
ROW = np.dtype([("crc", "<u4"), ("version", "<u4")])
"""Of each image: CRC-32 of its bytes, and how often it was written; odd while it is, 0 never."""
CERTAIN = 255
"""Confidence of 1, as stored."""
PATIENCE = 10.0
"""Seconds for which a row may be in the middle of being written."""


class Row(NamedTuple):
    """Pseudo-labels of an image or of a part of it.

    label: (H, W) class ids, IGNORE where there is none.
    confidence: (H, W) in 0..:data:`CERTAIN`, or None where the store keeps none.
    """

    label: NDArray[np.uint8]
    confidence: NDArray[np.uint8] | None


class PseudoLabels:
    """Reads the store of a folder, also while another process writes it.

    Objects may be pickled; each process maps the files for itself, and processes share the
    memory.

    Args:
        folder: of the store.
        identity: what it must have been made for; None accepts any.

    Raises:
        ConfigError: there is no store, or one for something else.
        DataError: files are missing or have another length than recorded.
    """

    def __init__(self, folder: Path, identity: Identity | None = None) -> None:
        self.folder = Path(folder)
        record = read_record(self.folder)
        if identity is not None:
            identity.require_same(self.folder)
        self.num_classes = len(record["classes"])
        self.has_confidence = bool(record["confidence"])
        self._length = int(record["images"])
        self._sizes = read_sizes(self.folder, self._length)
        areas = self._sizes.prod(axis=1)
        # Where all images have one size, a million of them need no table of where they start.
        self._area = int(areas[0]) if len(areas) == 1 else 0
        self._starts = np.concatenate([[0], areas.cumsum()])
        self._check_lengths()

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_planes", "_rows")}

    def size(self, index: int) -> Size:
        """(height, width) of an image's label map."""
        self._check_index(index)
        height, width = self._sizes[0 if self._area else index]
        return int(height), int(width)

    def label(self, index: int) -> NDArray[np.uint8]:
        """(H, W) class ids, mapped: read-only, and showing what is written later."""
        return self._plane(0, index)

    def confidence(self, index: int) -> NDArray[np.uint8]:
        """(H, W) in 0..:data:`CERTAIN`, mapped like :meth:`label`.

        Raises:
            ValueError: the store keeps none.
        """
        if not self.has_confidence:
            raise ValueError(f"the pseudo-labels in {self.folder} have no confidence")
        return self._plane(1, index)

    def class_counts(self) -> NDArray[np.int64]:
        """(K,) pixels of each class in all images."""
        counts = np.zeros(256, np.int64)
        for index in range(len(self)):
            counts += np.bincount(self.label(index).ravel(), minlength=256)
        return counts[: self.num_classes]

    def read(self, index: int, window: tuple[int, int, int, int] | None = None) -> Row:
        """A copy of an image's labels, or of a part, that is never half old and half new.

        Args:
            index: position of the image.
            window: (top, left, height, width) in pixels; None is all of it.

        Raises:
            ValueError: a window that is not inside the image.
            DataError: the image has none yet, or was left half written by a killed process.
        """
        size = self.size(index)
        top, left, height, width = window or (0, 0, *size)
        if min(top, left) < 0 or top + height > size[0] or left + width > size[1]:
            raise ValueError(f"window {window} must be inside image {index}, {size_text(size)}")
        part = np.s_[top : top + height, left : left + width]
        deadline = time.monotonic() + PATIENCE
        while True:
            before = int(self._version(index))
            if before == 0:
                raise DataError(
                    f"image {index} has no pseudo-labels in {self.folder} yet; fill the store "
                    "before it is read"
                )
            if before % 2 == 0:
                copies = [plane[part].copy() for plane in self._planes_of(index)]
                if int(self._version(index)) == before:
                    return Row(copies[0], copies[1] if self.has_confidence else None)
            if time.monotonic() > deadline:
                raise DataError(
                    f"image {index} of the pseudo-labels in {self.folder} has been half written "
                    f"for {PATIENCE:g} s, by a process that was killed; open the store for "
                    "writing to take that back"
                )
            time.sleep(1e-3)

    @cached_property
    def _planes(self) -> list[NDArray[np.uint8]]:
        names = PLANES if self.has_confidence else PLANES[:1]
        return [np.memmap(self.folder / name, np.uint8, "r") for name in names]

    @cached_property
    def _rows(self) -> NDArray[np.void]:
        return np.memmap(self.folder / ROWS, ROW, "r")

    def _version(self, index: int) -> np.uint32:
        version: np.uint32 = self._rows["version"][index]
        return version

    def _start(self, index: int) -> int:
        """Where an image begins in a plane, in bytes; the number of images gives the end."""
        return index * self._area if self._area else int(self._starts[index])

    def _plane(self, plane: int, index: int) -> NDArray[np.uint8]:
        size = self.size(index)
        pixels = self._planes[plane][self._start(index) : self._start(index + 1)]
        return np.asarray(pixels).reshape(size)

    def _planes_of(self, index: int) -> list[NDArray[np.uint8]]:
        return [self._plane(k, index) for k in range(1 + self.has_confidence)]

    def _check_index(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"index must be in [0, {len(self)}), got {index}")

    def _check_lengths(self) -> None:
        pixels = self._start(len(self))
        expected = {ROWS: len(self) * ROW.itemsize, PLANES[0]: pixels}
        if self.has_confidence:
            expected[PLANES[1]] = pixels
        for name, length in expected.items():
            path = self.folder / name
            found = path.stat().st_size if path.is_file() else None
            if found != length:
                state = "is missing" if found is None else f"has {found} bytes, not {length}"
                raise DataError(
                    f"the pseudo-labels in {self.folder} are damaged: {name} {state}; delete the "
                    "folder to make them again",
                    kind="damaged pseudo-labels",
                    path=path,
                )
