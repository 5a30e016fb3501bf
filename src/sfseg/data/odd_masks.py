"""What is odd about how a label file holds its classes, though it can be read."""

import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from sfseg.data.classes_file import CHANNELS

if TYPE_CHECKING:
    from sfseg.data.decoding import Decoding

LOSSY = (
    "which changes pixels along edges: ids between two classes become other classes; store masks "
    "as PNG"
)


class Remark(NamedTuple):
    """One thing that is odd.

    kind: what it is, in words that do not change from file to file.
    text: for people, to follow the file's name.
    """

    kind: str
    text: str


def remarks(data: bytes, stored: NDArray[np.integer], decoding: "Decoding") -> list[Remark]:
    """What is odd about a label file that was read.

    Args:
        data: the file.
        stored: its pixels, ids (H, W) or RGB (H, W, 3).
        decoding: how it was read.
    """
    found = []
    if lossy := lossy_format(data):
        found.append(Remark("lossy label file", f"is a {lossy} file, {LOSSY}"))
    if other := _other_colour(data, stored, decoding):
        found.append(Remark("colours of other classes", other))
    has_ids = decoding.ids_in(stored) is not None
    if stored.ndim == 3 and has_ids and decoding.rgb not in CHANNELS:
        text = "has three equal channels, which are read as class ids"
        found.append(Remark("ids in three channels", text))
    return found


def _other_colour(data: bytes, stored: NDArray[np.integer], decoding: "Decoding") -> str:
    """Where the colours of a palette file say other classes than its ids; empty if they do not."""
    with PILImage.open(io.BytesIO(data)) as image:
        listed = image.getpalette() if image.mode == "P" else None
    if listed is None or decoding.palette is None:
        return ""
    names = [*decoding.labels.classes, "void"]
    for value in np.unique(stored).tolist():
        red, green, blue = [*listed[3 * value : 3 * value + 3], 0, 0, 0][:3]
        drawn = decoding.palette.classes.get((red, green, blue))
        if drawn is not None and drawn != (read := int(decoding.table[value])):
            drawn, read = min(drawn, len(names) - 1), min(read, len(names) - 1)
            return (
                f"is a palette file in which id {value}, read as {names[read]}, has the colour of "
                f"{names[drawn]}; if its colours are right, save it as RGB"
            )
    return ""


def lossy_format(data: bytes) -> str:
    """The format of an image file whose pixels are not those that were saved; empty if they are."""
    with PILImage.open(io.BytesIO(data)) as image:
        if image.format == "WEBP":
            # Its header does not say it: the chunk of the pixels does.
            return "lossy WebP" if b"VP8 " in data[:4096] else ""
        compression = str(image.info.get("compression", ""))
        if image.format == "TIFF":
            return f"TIFF ({compression})" if compression in ("jpeg", "tiff_jpeg", "webp") else ""
        return str(image.format) if image.format in ("JPEG", "MPO", "JPEG2000") else ""
