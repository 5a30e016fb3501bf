"""What an image file says of itself before it is decoded: size, orientation, bands, depth."""

import io
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from sfseg.data.geometry import Size
from sfseg.data.paths import MOST_PIXELS, Limits
from sfseg.data.tiff import BEGINNINGS, GREY, ORIENTATION, RGB, Tags, read_tags
from sfseg.errors import DataError

MAX_PIXELS = Limits().max_pixels
MAX_BYTES = 16 * MOST_PIXELS
"""Of a file: four channels of 32 bits a pixel."""
# Pillow's own limit; a warning matters where warnings are errors.
BOMBS = (PILImage.DecompressionBombError, PILImage.DecompressionBombWarning)
_GAP = rb"(?:\s|#[^\n]*\n)+"
_NETPBM = re.compile(rb"P[2356]" + _GAP + rb"\d+" + _GAP + rb"\d+" + _GAP + rb"(\d+)\s")

_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}
"""From the pixels as stored to the upright picture."""
SIDEWAYS = {5, 6, 7, 8}
"""Orientations of pictures that lie on their side."""


@dataclass(frozen=True)
class Header:
    """What is known of a picture before it is decoded.

    size: (height, width) of the upright picture, as viewers show it.
    orientation: EXIF's number, from 1, upright as stored, to 8; 0 where a tag cannot be read, and
        the picture counts as upright.
    bands: samples a pixel.
    depth: of a sample, such as ``uint8`` or ``float32``.
    kind: of file, such as ``PNG``.
    tags: of a TIFF file.
    """

    size: Size
    orientation: int = 1
    bands: int = 3
    depth: str = "uint8"
    kind: str = ""
    tags: Tags | None = None

    @property
    def is_turned(self) -> bool:
        return self.orientation in _TURNS

    @property
    def is_on_its_side(self) -> bool:
        """Whether the sides of the stored picture change places."""
        return self.orientation in SIDEWAYS

    @property
    def has_more_bands(self) -> bool:
        """Whether a TIFF file has a band beside grey, or red, green and blue."""
        return self.tags is not None and self.tags.meaning in (GREY, RGB) and self.bands in (2, 4)


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Pixels (H, W) or (H, W, C) as stored, turned as the orientation says."""
    turn = _TURNS.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def read_header(path: Path, data: bytes | None = None, max_pixels: int = MAX_PIXELS) -> Header:
    """The header of a file, or of its content; nothing is decoded.

    Raises:
        DataError: no such file, not an image, or larger than ``max_pixels``.
    """
    try:
        if data is None:
            require_regular(path)
        with io.BytesIO(data) if data is not None else path.open("rb") as file:
            header = _of_tiff(file) if file.read(4) in BEGINNINGS else _of_other(file)
    except DataError:
        raise
    # A damaged header fails in any part of its reader, each with an exception of its own.
    except Exception as error:
        kind = "too large" if isinstance(error, BOMBS) else "no image"
        is_unknown = isinstance(error, UnidentifiedImageError)
        reason = "it begins as no known format does" if is_unknown else error
        raise DataError(f"{path} is no readable image: {reason}", kind=kind, path=path) from error
    height, width = header.size
    if height * width > max_pixels:
        raise DataError(
            f"{path} has {width}x{height} pixels, more than the limit of {max_pixels}; "
            "resize it, remove it from the folder, or raise max_pixels (data.limits.max_pixels)",
            kind="too large",
            path=path,
        )
    return header


def image_size(path: Path, data: bytes | None = None, max_pixels: int = MAX_PIXELS) -> Size:
    """(height, width) of the upright picture; see :func:`read_header`."""
    return read_header(path, data, max_pixels).size


def require_regular(path: Path) -> None:
    """Refuse what would be read without end, such as a pipe.

    Raises:
        DataError: it is no regular file, or too large for an image.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise DataError(
            f"{path} is no regular file; remove it from the folder",
            kind="no regular file",
            path=path,
        )
    if found.st_size > MAX_BYTES:
        raise DataError(
            f"{path} has {found.st_size:,} bytes, more than an image of {MOST_PIXELS:,} pixels, "
            "the most that are decoded; remove it from the folder",
            kind="too large",
            path=path,
        )


def _of_tiff(file: BinaryIO) -> Header:
    file.seek(0)
    tags = read_tags(file)
    turned = _known(tags.orientation)
    return Header(_turned(tags.size, turned), turned, tags.bands, tags.depth, "TIFF", tags)


def _of_other(file: BinaryIO) -> Header:
    file.seek(0)
    start = file.read(512)
    file.seek(0)
    with PILImage.open(file) as opened:
        size, turned = (opened.height, opened.width), _orientation(opened)
        bands, kind = len(opened.getbands()), str(opened.format)
    return Header(_turned(size, turned), turned, bands, _depth(start), kind)


def _depth(start: bytes) -> str:
    """Of a sample, by the beginning of a file that is no TIFF."""
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "uint16" if start[24:25] == b"\x10" else "uint8"
    found = _NETPBM.match(start)
    largest = int(found[1]) if found else 255
    return {255: "uint8", 65535: "uint16"}.get(largest, f"values up to {largest}")


def _turned(stored: Size, orientation: int) -> Size:
    return stored[::-1] if orientation in SIDEWAYS else stored


def _orientation(opened: PILImage.Image) -> int:
    """EXIF's number; 0 where there is EXIF data that cannot be read."""
    try:
        # Not the PNG reader's own method, which decodes the picture to look behind it.
        return _known(PILImage.Image.getexif(opened).get(ORIENTATION, 1))
    # Damaged tags fail like damaged headers, but the picture is there.
    except Exception:
        return 0


def _known(orientation: object) -> int:
    """The number, 1 in place of what EXIF has no meaning for."""
    return orientation if isinstance(orientation, int) and orientation in _TURNS else 1
