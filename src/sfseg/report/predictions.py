"""Predictions as files: ids, colours, overlays, confidence, and what the ids stand for."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image as PILImage

from sfseg.errors import DataError
from sfseg.labels import LabelSpace
from sfseg.report.drawing import Pixels, overlay, write_png
from sfseg.storage.atomic import write_whole

KINDS = ("labels", "colours", "overlays", "confidence")
"""Folders of an output, in the order in which they are described."""
COMPRESSION = 4
"""Of PNG files of ids: a third of the time of zlib's own 6, a quarter more bytes."""


class Predictions:
    """Writes what is wanted of each picture below one folder, and ``classes.yaml`` beside it.

    Args:
        folder: the output.
        wanted: some of :data:`KINDS`.
        labels: the classes.
        ids: the id of each class in ``labels`` and ``colours``; None: its position.
        opacity: of the colours in ``overlays``.
    """

    def __init__(
        self,
        folder: Path,
        wanted: Sequence[str],
        labels: LabelSpace,
        *,
        ids: Sequence[int] | None = None,
        opacity: float = 0.55,
    ) -> None:
        self.folder = folder
        self.wanted = tuple(wanted)
        self.labels = labels
        self.ids = ids
        self.opacity = opacity
        self._table: NDArray[np.uint8] = np.arange(256, dtype=np.uint8)
        if ids is not None:
            self._table[: len(ids)] = ids
        self._palette = np.zeros((256, 3), np.uint8)
        for position, colour in enumerate(labels.palette):
            self._palette[self._table[position]] = colour

    def write_classes(self) -> None:
        """``classes.yaml``, with which ``labels`` and ``colours`` are masks of ``data=folder``.

        Raises:
            DataError: the folder cannot be written.
        """
        content: dict[str, object] = {
            "name": self.labels.name,
            "classes": list(self.labels.classes),
            "palette": [list(colour) for colour in self.labels.palette],
        }
        if self.ids is not None:
            content["values"] = list(self.ids)
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None)
        _write(self.folder / "classes.yaml", text.encode())

    def write(self, name: Path, image: Pixels, label: Pixels, confidence: Pixels) -> None:
        """The files of one picture.

        Args:
            name: its path below each kind's folder.
            image: (H, W, 3) RGB.
            label: (H, W) class ids.
            confidence: (H, W), 255 is certain.

        Raises:
            DataError: the folder cannot be written.
        """
        if "labels" in self.wanted:
            write_png(self.folder / "labels" / name, self._table[label])
        if "colours" in self.wanted:
            write_indexed(self.folder / "colours" / name, self._table[label], self._palette)
        if "overlays" in self.wanted:
            drawn = overlay(image, label, self.labels.palette, self.opacity)
            write_png(self.folder / "overlays" / name, drawn)
        if "confidence" in self.wanted:
            write_png(self.folder / "confidence" / name, confidence)


def indexed(ids: Pixels, palette: NDArray[np.uint8]) -> PILImage.Image:
    """An image of ids (H, W) whose colours (256, 3) viewers show."""
    image = PILImage.fromarray(ids)
    image.putpalette(palette.tobytes())
    return image


def write_indexed(path: Path, ids: Pixels, palette: NDArray[np.uint8]) -> None:
    """Write ids (H, W) whose colours (256, 3) viewers show; readers of indices get the ids.

    Raises:
        DataError: the folder cannot be written.
    """
    file = io.BytesIO()
    indexed(ids, palette).save(file, format="PNG", compress_level=COMPRESSION)
    _write(path, file.getvalue())


def _write(path: Path, data: bytes) -> None:
    try:
        write_whole(path, lambda file: file.write(data))
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}") from error
