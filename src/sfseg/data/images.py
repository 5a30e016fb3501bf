"""Decode image and label files safely; errors name the file."""

import io
import stat
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from sfseg.data.geometry import Image, Size
from sfseg.data.paths import MOST_PIXELS, Limits
from sfseg.errors import DataError

MAX_PIXELS = Limits().max_pixels
MAX_BYTES = 16 * MOST_PIXELS
"""Of a file: four channels of 32 bits a pixel."""
# Pillow's own limit; a warning matters where warnings are errors.
BOMBS = (PILImage.DecompressionBombError, PILImage.DecompressionBombWarning)


def image_size(path: Path, data: bytes | None = None, max_pixels: int = MAX_PIXELS) -> Size:
    """(height, width) from the header, checked against the limit; nothing is decoded.

    Raises:
        DataError: no such file, not an image, or larger than ``max_pixels``.
    """
    try:
        if data is None:
            _require_regular(path)
        with PILImage.open(io.BytesIO(data) if data is not None else path) as header:
            width, height = header.size
    except DataError:
        raise
    # A damaged header fails in any part of its reader, each with an exception of its own.
    except Exception as error:
        kind = "too large" if isinstance(error, BOMBS) else "no image"
        is_unknown = isinstance(error, UnidentifiedImageError)
        reason = "it begins as no known format does" if is_unknown else error
        raise DataError(f"{path} is no readable image: {reason}", kind=kind, path=path) from error
    if height * width > max_pixels:
        raise DataError(
            f"{path} has {width}x{height} pixels, more than the limit of {max_pixels}; "
            "resize it, remove it from the folder, or raise max_pixels (data.limits.max_pixels)",
            kind="too large",
            path=path,
        )
    return height, width


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image:
    """(H, W, 3) uint8 RGB; grey and 16-bit files are converted, alpha is dropped.

    Pixels come as stored: a photo's orientation tag is not applied, since its label has none.

    Raises:
        DataError: missing, truncated, too large or no image.
    """
    return decode_image(read_bytes(path), path, max_pixels)


def decode_image(data: bytes, path: Path, max_pixels: int = MAX_PIXELS) -> Image:
    """:func:`read_image` of a file that has been read."""
    image_size(path, data, max_pixels)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    decoded = _decoded(data, flags, path, "restore it or remove it from the folder")
    return np.asarray(decoded, dtype=np.uint8)


def read_label(path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.integer]:
    """Raw ids as stored: (H, W) for grey and palette files, (H, W, 3) RGB for colour masks.

    Palette files go through PIL, which returns indices where cv2 returns colours; files of 16
    bits a channel go through cv2, since PIL keeps only the high byte of 16-bit RGB.

    Raises:
        DataError: missing, truncated, too large or no image.
    """
    return decode_label(read_bytes(path), path, max_pixels)


def decode_label(data: bytes, path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.integer]:
    """:func:`read_label` of a file that has been read."""
    image_size(path, data, max_pixels)
    if _is_16_bit(data):
        deep = _decoded(data, cv2.IMREAD_UNCHANGED, path, "restore it")
        return np.asarray(deep if deep.ndim == 2 else deep[:, :, 2::-1])
    try:
        # Pillow decodes PNG pixels without looking at their checksums; cv2 does look.
        PILImage.open(io.BytesIO(data)).verify()
        with PILImage.open(io.BytesIO(data)) as opened:
            if opened.mode in {"LA", "PA"}:
                return np.asarray(opened.getchannel(0))
            if opened.mode in {"P", "L", "1"} or opened.mode.startswith("I"):
                return np.asarray(opened)
            if opened.mode != "F":
                return np.asarray(opened.convert("RGB"))
    # As in image_size.
    except Exception as error:
        raise damaged(path, str(error)) from error
    raise DataError(
        f"{path} holds floating-point numbers where class ids are expected; store them as whole "
        "numbers in a PNG",
        kind="numbers for ids",
        path=path,
    )


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        DataError: it is missing, empty, no regular file, too large for an image, or cannot be
            read.
    """
    try:
        _require_regular(path)
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}", kind="cannot be read", path=path
        ) from error
    if not data:
        raise DataError(f"{path} is empty", kind="empty file", path=path)
    return data


def _require_regular(path: Path) -> None:
    """Refuse what would be read without end, such as a pipe."""
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


def damaged(path: Path, more: str) -> DataError:
    """The error for a file that begins like an image."""
    return DataError(
        f"{path} is truncated or damaged; {more}", kind="truncated or damaged", path=path
    )


def _decoded(data: bytes, flags: int, path: Path, advice: str) -> NDArray[np.generic]:
    """What cv2 makes of a file.

    Raises:
        DataError: nothing.
    """
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise damaged(path, f"{str(error).strip()}; {advice}") from error
    if decoded is None:
        raise damaged(path, advice)
    return decoded


def _is_16_bit(data: bytes) -> bool:
    return data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) > 24 and data[24] == 16
