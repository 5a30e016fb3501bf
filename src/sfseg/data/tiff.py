"""TIFF files, whose pixels mean what their tags say: read the tags, and set those that mislead.

Pillow opens few of the files that are not for screens, and cv2 multiplies colours by a fourth
band, takes the first of several grey bands for all, and turns some pictures but not others.
"""

import struct
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0")
"""Of a file; the last is of those larger than 4 GB, whose addresses are longer."""
WIDTH, HEIGHT, BITS, PHOTOMETRIC, ORIENTATION, SAMPLES, PLANES, EXTRA, FORMAT = (
    256, 257, 258, 262, 274, 277, 284, 338, 339,
)  # fmt: skip
"""Numbers of tags; the orientation's is EXIF's too."""
PRIVATE = 65000
"""A tag that means nothing to readers."""
GREY, RGB = 1, 2
"""What a file's samples stand for; there is more than these."""
UNASSOCIATED = 2
"""A band that is alpha, by which colours have not been multiplied."""
_NUMBERS = {1: "uint", 2: "int", 3: "float", 4: "uint"}
"""What samples are by their format; 4 says nothing of them."""
_SHORT = 3
"""The type of a tag's value: 16 bits without a sign."""


class Tags(NamedTuple):
    """What the first picture of a file is, as stored.

    size: (height, width).
    depth: of a sample, such as ``uint16``.
    meaning: of its samples, such as :data:`RGB`.
    is_apart: whether bands are stored one after the other.
    """

    size: tuple[int, int]
    orientation: int
    bands: int
    depth: str
    meaning: int
    is_apart: bool


def read_tags(file: BinaryIO) -> Tags:
    """The tags of a file, from its beginning.

    Raises:
        Exception: of any kind, if the file is damaged.
    """
    start = file.read(8)
    start += file.read(8) if start.startswith(b"II+") else b""
    tags = ImageFileDirectory_v2(start)
    file.seek(tags.next)
    tags.load(file)
    height, width, bands = int(tags[HEIGHT]), int(tags[WIDTH]), int(tags.get(SAMPLES, 1))
    if min(height, width, bands) < 1:
        raise ValueError(f"it has {width}x{height} pixels of {bands} bands")
    bits = {int(k) for k in np.ravel(tags.get(BITS, 1))}
    formats = {_NUMBERS.get(int(k), "unknown") for k in np.ravel(tags.get(FORMAT, 1))}
    is_one = len(bits) == len(formats) == 1
    return Tags(
        (height, width),
        int(tags.get(ORIENTATION, 1)),
        bands,
        f"{formats.pop()}{bits.pop()}" if is_one else "several kinds",
        int(tags.get(PHOTOMETRIC, RGB)),
        bands > 1 and int(tags.get(PLANES, 1)) == 2,
    )


def as_colours(data: bytes, tags: Tags) -> bytes:
    """A file of the same samples that is not turned, and whose bands 1 to 3 are RGB.

    A fourth is alpha that nobody multiplies with.
    """
    changes = {ORIENTATION: (ORIENTATION, 1)}
    if tags.bands in (3, 4) and tags.meaning in (GREY, RGB):
        extra = (EXTRA, UNASSOCIATED) if tags.bands == 4 else (PRIVATE, 0)
        changes |= {PHOTOMETRIC: (PHOTOMETRIC, RGB), EXTRA: extra}
    order = "<" if data.startswith(b"II") else ">"
    is_long = data.startswith(b"II+")
    # Place of the directory; number of its entries; an entry: tag, type, count, value.
    address, number, entry = ("Q", "Q", "HHQQ") if is_long else ("L", "H", "HHLL")
    (at,) = struct.unpack_from(order + address, data, 8 if is_long else 4)
    (count,) = struct.unpack_from(order + number, data, at)
    at += struct.calcsize(order + number)
    patched = bytearray(data)
    for _ in range(count):
        tag = struct.unpack_from(order + "H", data, at)[0]
        if tag in changes:
            head = order + entry[:3]
            tag, value = changes[tag]
            struct.pack_into(head, patched, at, tag, _SHORT, 1)
            struct.pack_into(order + "H", patched, at + struct.calcsize(head), value)
        at += struct.calcsize(order + entry)
    return bytes(patched)
