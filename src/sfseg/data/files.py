"""Scenes stored as image files and label files, whatever their folders are."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from sfseg.data.geometry import Image, Size, resize_label
from sfseg.data.headers import Header, read_header
from sfseg.data.images import (
    decode_image,
    decode_label,
    read_bytes,
    stored_values,
    value_range_of,
)
from sfseg.data.label_ids import INVALID, likely_cause
from sfseg.data.paths import Limits, PathList, Root, is_file
from sfseg.errors import DataError
from sfseg.labels import LabelSpace
from sfseg.types import IGNORE

STRIP = 1 << 17
"""Pixels at a time that stay in the processor's cache."""

Paths = PathList | Sequence[Path]
Rgb = Literal["palette", "red", "refuse"]
"""What a label of three channels holds: a palette's colours, ids in red, or a mistake."""


class Files:
    """Scenes stored as image files and, where there are any, label files.

    Args:
        root: folder that names are relative to; no link may lead out of it.
        images: image files.
        masks: label file of each image, or None for an unlabelled set.
        labels: the label space that the ids are mapped to.
        table: 256 entries, stored id -> class id, IGNORE, or INVALID.
        limits: what may be opened.
        rgb: how labels of three channels are read.
        fit_labels: bring labels whose size differs to the image's, nearest neighbour; for data
            sets that ship such pairs.
        value_range: which stored values of images become 0 to 255, see
            :data:`sfseg.data.images.ValueRange`.
        official: number of images as published, to notice an incomplete download.
    """

    def __init__(
        self,
        root: Path,
        images: Paths,
        masks: Paths | None,
        labels: LabelSpace,
        table: NDArray[np.uint8],
        *,
        limits: Limits | None = None,
        rgb: Rgb = "palette",
        fit_labels: bool = False,
        value_range: object = None,
        official: int | None = None,
    ) -> None:
        if masks is not None and len(masks) != len(images):
            raise ValueError(f"masks must be one per image, got {len(masks)} for {len(images)}")
        self.root = root
        self.images = images
        self.masks = masks
        self.labels = labels
        self.table = table
        self.limits = limits or Limits()
        self.rgb: Rgb = rgb
        self.fit_labels = fit_labels
        self.value_range = value_range_of(value_range)
        self.official = official
        self._inside = Root(root, self.limits)
        kept = np.flatnonzero(table != INVALID)
        # Stored ids that are class ids already, the common case, need no look-up.
        self.is_identity = bool(
            (table[kept] == kept).all()
            and (kept[:-1] == np.arange(len(kept) - 1)).all()
            and table[IGNORE] == IGNORE
        )

    @property
    def has_labels(self) -> bool:
        return self.masks is not None

    @cached_property
    def unpaired(self) -> list[int]:
        """Positions of images whose label file does not exist."""
        return [k for k, path in enumerate(self.masks or ()) if not is_file(path)]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return self.images[index].relative_to(self.root).as_posix()

    def header(self, index: int) -> Header:
        """What an image's file says of itself."""
        return read_header(self.image_file(index), max_pixels=self.limits.max_pixels)

    def size(self, index: int) -> Size:
        return self.header(index).size

    def image(self, index: int) -> Image:
        return self.decode_image(read_bytes(self.image_file(index)), index)

    def decode_image(self, data: bytes, index: int) -> Image:
        """:meth:`image` of a file that has been read."""
        path = self.image_file(index)
        return decode_image(data, path, self.limits.max_pixels, self.value_range)

    def stored_values(self, index: int) -> NDArray[np.generic]:
        """:meth:`image` before values become bytes."""
        path = self.image_file(index)
        return stored_values(read_bytes(path), path, self.limits.max_pixels)

    def label(self, index: int) -> Image:
        """Class ids of one image, perhaps read-only.

        Raises:
            DataError: ids outside the table; names them, the file and how many pixels.
        """
        path = self.label_file(index)
        return self.decode_label(read_bytes(path), index)

    def decode_label(self, data: bytes, index: int) -> Image:
        """:meth:`label` of a file that has been read."""
        path = self.label_file(index)
        ids = self._ids(decode_label(data, path, self.limits.max_pixels), path)
        if self.fit_labels and ids.shape != (size := self.size(index)):
            ids = resize_label(ids, size)
        return ids

    def image_file(self, index: int) -> Path:
        """The image file of a scene, which lies in the root."""
        return self._checked(self.images[index])

    def label_file(self, index: int) -> Path:
        """The label file of a scene, which lies in the root."""
        if self.masks is None:
            raise ValueError(f"{self.name(index)} has no label")
        return self._checked(self.masks[index])

    def _checked(self, path: Path) -> Path:
        self._inside.check(path)
        return path

    def _ids(self, raw: NDArray[np.integer], path: Path) -> Image:
        if raw.ndim == 3 and self.rgb == "palette":
            return from_colours(raw, self.labels, path)
        if raw.ndim == 3 and self.rgb == "refuse":
            raise DataError(
                f"{path} has {raw.shape[0] * raw.shape[1]} pixels of colours where class ids are "
                "expected; it looks like a picture of the labels, take the file of ids",
                kind="colours for ids",
                path=path,
                pixels=raw.shape[0] * raw.shape[1],
            )
        if raw.ndim == 3:
            raw = raw[:, :, 0]
        if raw.dtype != np.uint8:
            wide = (raw < 0) | (raw > 255)
            if wide.any():
                raise _out_of_range(path, raw, wide, self)
        ids: Image = np.ascontiguousarray(raw, dtype=np.uint8)
        if self.is_identity and largest_id(ids) < self.labels.num_classes:
            return ids
        mapped = np.asarray(cv2.LUT(ids, self.table), dtype=np.uint8)
        if largest_id(mapped) == INVALID:
            raise _out_of_range(path, ids, mapped == INVALID, self)
        return mapped


def largest_id(ids: Image) -> int:
    """The largest id that is not IGNORE, in one pass; -1 when all are."""
    flat, largest = ids.ravel(), 0
    for start in range(0, flat.size, STRIP):
        # IGNORE wraps around to 0.
        largest = max(largest, int((flat[start : start + STRIP] + np.uint8(1)).max()))
    return largest - 1


def from_colours(rgb: NDArray[np.integer], labels: LabelSpace, path: Path) -> Image:
    """Class ids of an RGB mask by exact palette colour; black that is no class is IGNORE."""
    if rgb.dtype != np.uint8:
        raise DataError(
            f"{path} is an RGB mask of {rgb.dtype}; colours must have 8 bits a channel",
            kind="unknown colours",
            path=path,
        )
    code = rgb.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1])
    ids = np.full(code.shape, IGNORE, np.uint8)
    known = code == 0
    for k, (r, g, b) in enumerate(labels.palette):
        here = code == (r << 16 | g << 8 | b)
        ids[here] = k
        known |= here
    if not known.all():
        colour = tuple(int(v) for v in rgb[~known][0])
        raise DataError(
            f"{path} is an RGB mask with {int((~known).sum())} pixels of colours that the palette "
            f"lacks, {colour} for one; add them to the classes' palette or store ids (0, 1, ...)",
            kind="unknown colours",
            path=path,
            pixels=int((~known).sum()),
        )
    return ids


def _out_of_range(
    path: Path, ids: NDArray[np.integer], where: NDArray[np.bool_], files: Files
) -> DataError:
    values = np.unique(ids[where])
    shown = ", ".join(str(v) for v in values[:8]) + (", ..." if len(values) > 8 else "")
    labels = files.labels
    cause = likely_cause(np.unique(ids).tolist(), files.table)
    advice = cause or (
        "map them with 'values' or 'ignore' in the classes' YAML, or check that data.classes fits "
        "the masks"
    )
    return DataError(
        f"{path} has {int(where.sum())} pixels with ids that are no class of {labels.name} "
        f"(0 to {labels.num_classes - 1}, void {IGNORE}): {shown}; {advice}",
        kind="ids out of range",
        path=path,
        pixels=int(where.sum()),
    )
