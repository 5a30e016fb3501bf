"""Decode image and label files safely; errors name the file."""

import io
import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from sfseg.data.geometry import Image, Size
from sfseg.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 1 << 26
"""Largest image that is decoded: 67 megapixels, eight times an 8K frame."""


def image_size(path: Path, data: bytes | None = None) -> Size:
    """(height, width) from the header, checked against the limit; nothing is decoded.

    Raises:
        DataError: no such file, not an image, or larger than :data:`MAX_PIXELS`.
    """
    try:
        with PILImage.open(io.BytesIO(data) if data is not None else path) as header:
            width, height = header.size
    except (
        OSError,
        ValueError,
        SyntaxError,
        PILImage.DecompressionBombError,
        PILImage.DecompressionBombWarning,  # where warnings are errors
    ) as error:
        raise DataError(f"{path} is no readable image: {error}") from error
    if height * width > MAX_PIXELS:
        raise DataError(
            f"{path} has {height}x{width} pixels, more than the limit of {MAX_PIXELS}; "
            "resize it or remove it from the folder"
        )
    return height, width


def read_image(path: Path) -> Image:
    """(H, W, 3) uint8 RGB; grey and 16-bit files are converted, alpha is dropped.

    Pixels come as stored: a photo's orientation tag is not applied, since its label has none.

    Raises:
        DataError: missing, truncated, too large or no image.
    """
    data = _read_bytes(path)
    image_size(path, data)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if decoded is None:
        raise DataError(f"{path} is truncated or damaged; restore it or remove it from the folder")
    return np.asarray(decoded, dtype=np.uint8)


def read_label(path: Path) -> NDArray[np.integer]:
    """Raw ids as stored: (H, W) for grey and palette files, (H, W, 3) RGB for colour masks.

    Palette files go through PIL, which returns indices where cv2 returns colours; files of 16
    bits a channel go through cv2, since PIL keeps only the high byte of 16-bit RGB.

    Raises:
        DataError: missing, truncated, too large or no image.
    """
    data = _read_bytes(path)
    image_size(path, data)
    if _is_16_bit(data):
        deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if deep is None:
            raise DataError(f"{path} is truncated or damaged")
        return np.asarray(deep if deep.ndim == 2 else deep[:, :, 2::-1])
    try:
        with PILImage.open(io.BytesIO(data)) as opened:
            if opened.mode in {"LA", "PA"}:
                return np.asarray(opened.getchannel(0))
            if opened.mode in {"P", "L", "1"} or opened.mode.startswith("I"):
                return np.asarray(opened)
            return np.asarray(opened.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path} is truncated or damaged: {error}") from error


def list_images(folder: Path) -> list[Path]:
    """All image files below a folder, sub-folders and links included, sorted by path.

    Hidden files and folders are left out; a folder linked from within itself is read once.
    """
    found: list[Path] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(parent, name) for name in names if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in SUFFIXES]
    return sorted(found)


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if not data:
        raise DataError(f"{path} is empty")
    return data


def _is_16_bit(data: bytes) -> bool:
    return data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) > 24 and data[24] == 16
