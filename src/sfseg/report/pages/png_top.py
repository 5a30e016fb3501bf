"""The upper part of a large PNG picture, for the price of that part."""

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from sfseg.errors import DataError
from sfseg.report.drawing import Pixels

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PLAIN = b"\x08\x02\x00\x00\x00"
"""Eight bits, red, green and blue, not interlaced: what sfseg writes."""
LARGEST = 1 << 27
"""Pixels of a picture that are decoded."""


def read_top(path: Path, rows: int | None = None) -> Pixels:
    """The upper part of a PNG picture as RGB (H, W, 3).

    Args:
        path: of the file.
        rows: pixels from the top; None: all of them.

    Raises:
        DataError: it cannot be read, is damaged, or too large.
    """
    try:
        content = _beginning(path, rows)
    except (OSError, struct.error, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    stored = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if stored is None:
        raise DataError(f"{path} is no picture, or damaged")
    return np.asarray(cv2.cvtColor(stored, cv2.COLOR_BGR2RGB), np.uint8)


def _beginning(path: Path, rows: int | None) -> bytes:
    """A PNG file of as many rows of another."""
    with path.open("rb") as file:
        head = file.read(33)
        if head[:8] != SIGNATURE:
            raise DataError(f"{path} is no PNG picture")
        width, height = struct.unpack(">II", head[16:24])
        shown = height if rows is None else min(rows, height)
        if width * shown > LARGEST:
            raise DataError(f"{path} is too large for a page: {width}x{height} pixels")
        if shown == height or head[24:29] != PLAIN:
            return head + file.read()
        data = _inflated(file, shown * (1 + 3 * width))
    header = struct.pack(">II", width, shown) + PLAIN
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data, 0)), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(kind, content) for kind, content in chunks)


def _inflated(file: BinaryIO, size: int) -> bytes:
    """The first bytes of the pixels' data; fewer where the file ends."""
    parts, inflater = [], zlib.decompressobj()
    while size and len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        content = file.read(length)
        file.read(4)
        if kind == b"IDAT":
            parts.append(inflater.decompress(content, size))
            size -= len(parts[-1])
    return b"".join(parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))
