"""Decode image and label files safely; errors name the file."""

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from sfseg.data.geometry import Image
from sfseg.data.headers import MAX_PIXELS, Header, read_header, require_regular, upright
from sfseg.data.tiff import GREY, RGB, Tags, as_colours
from sfseg.errors import DataError

# What is wrong with a file is said once, by an error that names it.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

ValueRange = tuple[float, float] | Literal["percentile"] | None
"""Which stored values become 0 to 255: from one to another; from the 1st to the 99th percentile of
each picture, over all its bands; None: all that the file's type can hold."""
PERCENTILES = (0.01, 0.99)


def value_range_of(setting: object) -> ValueRange:
    """The range that ``data.value_range`` names.

    Raises:
        ValueError: it names none.
    """
    if setting is None or setting == "percentile":
        return "percentile" if setting else None
    if isinstance(setting, Sequence) and not isinstance(setting, str) and len(setting) == 2:
        low, high = setting
        if isinstance(low, int | float) and isinstance(high, int | float) and low < high:
            return float(low), float(high)
    raise ValueError(
        "data.value_range must be [lowest, highest] of the stored values, percentile, or null for "
        f"all that the file's type can hold, got {setting!r}"
    )


def read_image(path: Path, max_pixels: int = MAX_PIXELS, value_range: ValueRange = None) -> Image:
    """(H, W, 3) uint8 RGB, upright as viewers show it; grey becomes RGB, a fourth band is dropped.

    Raises:
        DataError: missing, truncated, too large, no image, or of samples that are not supported.
    """
    return decode_image(read_bytes(path), path, max_pixels, value_range)


def decode_image(
    data: bytes, path: Path, max_pixels: int = MAX_PIXELS, value_range: ValueRange = None
) -> Image:
    """:func:`read_image` of a file that has been read."""
    return in_bytes(stored_values(data, path, max_pixels), value_range)


def stored_values(data: bytes, path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.generic]:
    """:func:`decode_image` before values become bytes: (H, W, 3) of 8 or 16 bits."""
    header = read_header(path, data, max_pixels)
    _require_supported(header, path)
    if header.tags is not None:
        data = _as_colours(data, header.tags, path)
        if header.depth != "uint16":
            return upright(_by_pillow(data, path), header.orientation)
    # cv2 keeps all of 16 bits, of which Pillow keeps the high byte.
    is_deep = header.depth == "uint16"
    kind = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH if is_deep else cv2.IMREAD_COLOR_RGB
    stored = _decoded(
        data, kind | cv2.IMREAD_IGNORE_ORIENTATION, path, "restore it or remove it from the folder"
    )
    # Of 16-bit TIFF files cv2 5.0 forgets to exchange red and blue.
    if is_deep:
        stored = cv2.cvtColor(np.asarray(stored, dtype=np.uint16), cv2.COLOR_BGR2RGB)
    return upright(stored, header.orientation)


def in_bytes(stored: NDArray[np.generic], value_range: ValueRange = None) -> Image:
    """Values of 8 or 16 bits as bytes.

    Without a range 8 bits stay as they are, and of 16 bits the high byte remains.
    """
    is_deep = stored.dtype == np.uint16
    if value_range is None:
        return np.asarray(np.right_shift(stored, 8) if is_deep else stored, dtype=np.uint8)
    low, high = _percentiles(stored) if value_range == "percentile" else value_range
    values = np.arange(1 << (16 if is_deep else 8))
    # A picture of one value has no range: all of it is dark.
    scaled = (values - low) * 255 / ((high - low) or 1)
    table = scaled.round().clip(0, 255).astype(np.uint8)
    return np.asarray(table[stored], dtype=np.uint8)


def read_label(path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.integer]:
    """Raw ids as stored: (H, W) for grey and palette files, (H, W, 3) RGB for colour masks.

    Palette files go through PIL, which returns indices where cv2 returns colours; files of 16
    bits a channel go through cv2, since PIL keeps only the high byte of 16-bit RGB. A file with an
    orientation tag is turned upright, like an image.

    Raises:
        DataError: missing, truncated, too large or no image.
    """
    return decode_label(read_bytes(path), path, max_pixels)


def decode_label(data: bytes, path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.integer]:
    """:func:`read_label` of a file that has been read."""
    header = read_header(path, data, max_pixels)
    if _is_16_bit(data):
        deep = _decoded(data, cv2.IMREAD_UNCHANGED, path, "restore it")
        return upright(
            np.asarray(deep if deep.ndim == 2 else deep[:, :, 2::-1]), header.orientation
        )
    # Pillow turns TIFF files itself.
    orientation = 1 if header.kind == "TIFF" else header.orientation
    try:
        # Pillow decodes PNG pixels without looking at their checksums; cv2 does look.
        PILImage.open(io.BytesIO(data)).verify()
        with PILImage.open(io.BytesIO(data)) as opened:
            if opened.mode in {"LA", "PA"}:
                return upright(np.asarray(opened.getchannel(0)), orientation)
            if opened.mode in {"P", "L", "1"} or opened.mode.startswith("I"):
                return upright(np.asarray(opened), orientation)
            if opened.mode != "F":
                return upright(np.asarray(opened.convert("RGB")), orientation)
    # As in read_header.
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
        require_regular(path)
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}", kind="cannot be read", path=path
        ) from error
    if not data:
        raise DataError(f"{path} is empty", kind="empty file", path=path)
    return data


def damaged(path: Path, more: str) -> DataError:
    """The error for a file that begins like an image."""
    return DataError(
        f"{path} is truncated or damaged; {more}", kind="truncated or damaged", path=path
    )


def _require_supported(header: Header, path: Path) -> None:
    """Refuse what would be read into something else than it is.

    Raises:
        DataError: says what it is, and what would be read.
    """
    what, tags, is_deep = "", header.tags, header.depth == "uint16"
    if header.bands > 4 or (header.bands == 2 and is_deep):
        what = f"{header.bands} bands of {header.depth}"
    elif header.depth not in {"uint1", "uint2", "uint4", "uint8", "uint16"}:
        what = f"samples of {header.depth}"
    elif tags is not None and is_deep and tags.is_apart:
        what = "bands of 16 bits stored one after the other"
    elif tags is not None and is_deep and tags.meaning not in (GREY, RGB):
        what = f"samples of 16 bits that are neither grey nor RGB (photometric {tags.meaning})"
    if what:
        raise DataError(
            f"{path} is not supported: {what}; images have 1, 3 or 4 bands of 8 or 16 bits, whole "
            "numbers from 0; convert it, for example with gdal_translate -b 1 -b 2 -b 3 -scale "
            "-ot UInt16 -co INTERLEAVE=PIXEL",
            kind="not supported",
            path=path,
        )


def _as_colours(data: bytes, tags: Tags, path: Path) -> bytes:
    try:
        return as_colours(data, tags)
    except struct.error as error:
        raise damaged(path, f"its tags end too early: {error}") from error


def _by_pillow(data: bytes, path: Path) -> Image:
    """(H, W, 3) of a TIFF file of up to 8 bits a sample."""
    try:
        with PILImage.open(io.BytesIO(data)) as opened:
            grey = opened.getchannel(0) if opened.mode in {"LA", "La"} else opened
            return np.asarray(grey.convert("RGB"))
    # As in read_header.
    except Exception as error:
        raise damaged(path, f"{error}; restore it or remove it from the folder") from error


def _percentiles(stored: NDArray[np.generic]) -> tuple[int, int]:
    """The values at :data:`PERCENTILES` of all samples."""
    samples = np.asarray(stored, dtype=np.uint16)
    values = 1 << (8 * stored.itemsize)
    counts = np.zeros(values, np.int64)
    for band in range(samples.shape[2]):
        found = cv2.calcHist([samples], [band], None, [values], [0, values])
        counts += found.ravel().astype(np.int64)
    total = np.cumsum(counts)
    low, high = np.searchsorted(total, [share * total[-1] for share in PERCENTILES])
    return int(low), int(high)


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
