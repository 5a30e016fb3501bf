"""Scenes stored as image files and label files, whatever their folders are."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfseg.data.decoding import Decoding, Stored
from sfseg.data.geometry import Image, Size, resize_label
from sfseg.data.headers import Header, read_header
from sfseg.data.images import (
    decode_image,
    decode_label,
    read_bytes,
    stored_values,
    value_range_of,
)
from sfseg.data.odd_masks import LOSSY, Remark, lossy_format, remarks
from sfseg.data.pairing import MaskNames
from sfseg.data.paths import Limits, PathList, Root, is_file
from sfseg.errors import DataError
from sfseg.labels import LabelSpace

Paths = PathList | Sequence[Path]


class Files:
    """Scenes stored as image files and, where there are any, label files.

    Args:
        root: folder that names are relative to; no link may lead out of it.
        images: image files.
        masks: label file of each image, or None for an unlabelled set.
        decoding: how label files are read, and the label space of their ids.
        limits: what may be opened.
        fit_labels: bring labels whose size differs to the image's, nearest neighbour; for data
            sets that ship such pairs.
        value_range: which stored values of images become 0 to 255, see
            :data:`sfseg.data.images.ValueRange`.
        official: number of images as published, to notice an incomplete download.
        mask_names: the rule by which masks were found, for messages; None where there is none.
    """

    def __init__(
        self,
        root: Path,
        images: Paths,
        masks: Paths | None,
        decoding: Decoding,
        *,
        limits: Limits | None = None,
        fit_labels: bool = False,
        value_range: object = None,
        official: int | None = None,
        mask_names: MaskNames | None = None,
    ) -> None:
        if masks is not None and len(masks) != len(images):
            raise ValueError(f"masks must be one per image, got {len(masks)} for {len(images)}")
        self.root = root
        self.images = images
        self.masks = masks
        self.decoding = decoding
        self.limits = limits or Limits()
        self.fit_labels = fit_labels
        self.value_range = value_range_of(value_range)
        self.official = official
        self.mask_names = mask_names
        self._inside = Root(root, self.limits)

    @property
    def labels(self) -> LabelSpace:
        return self.decoding.labels

    @property
    def has_labels(self) -> bool:
        return self.masks is not None

    @property
    def stored(self) -> Sequence[tuple[Path, Paths]]:
        """Images and labels that are read, each below a folder that names are relative to."""
        return [(self.root, self.images), (self.root, self.masks or ())]

    @property
    def meaning(self) -> str:
        """All that the ids of a label depend on besides its file and the names of the classes."""
        decoding = self.decoding
        return f"{self.labels.palette} {decoding.rgb} {self.fit_labels} {decoding.meaning}"

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
        return self._decoded(data, index)[0]

    def examined_label(self, index: int) -> tuple[Image, list[Remark]]:
        """:meth:`label`, and what is odd about how its file holds it."""
        data = read_bytes(self.label_file(index))
        ids, stored = self._decoded(data, index)
        return ids, remarks(data, stored, self.decoding)

    def _decoded(self, data: bytes, index: int) -> tuple[Image, Stored]:
        """Class ids of a label file, and its pixels as stored."""
        path = self.label_file(index)
        stored = decode_label(data, path, self.limits.max_pixels)
        try:
            ids = self.decoding(stored, path)
        except DataError as error:
            if lossy := lossy_format(data):
                reason = f"it is a {lossy} file, {LOSSY}"
                raise DataError(
                    f"{error}; {reason}", kind=error.kind, path=path, pixels=error.pixels
                ) from error
            raise
        if self.fit_labels and ids.shape != (size := self.size(index)):
            ids = resize_label(ids, size)
        return ids, stored

    def stored_ids(self, index: int) -> Stored | None:
        """The ids (H, W) in a label file as stored; None where it holds colours."""
        path = self.label_file(index)
        stored = decode_label(read_bytes(path), path, self.limits.max_pixels)
        return self.decoding.ids_in(stored)

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


def pairing_hint(scenes: object) -> str:
    """What is there instead of label files that do not exist; empty where that is not known."""
    if not isinstance(scenes, Files) or scenes.mask_names is None or not len(scenes):
        return ""
    if not scenes.has_labels:
        return scenes.mask_names.folder_hint(scenes.name(0))
    missing = [scenes.name(k) for k in scenes.unpaired]
    return scenes.mask_names.hint(missing, is_all=len(missing) == len(scenes)) if missing else ""
