"""What is worth saying of the pictures of a set, beside what is wrong with single files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sfseg.data.files import Files
from sfseg.data.folder import Scenes
from sfseg.data.geometry import Image
from sfseg.data.headers import Header
from sfseg.data.images import ValueRange

FEW = 128
"""Of 256 values of a byte: with fewer, half of what a byte can tell apart is lost."""


@dataclass(frozen=True)
class Facts:
    """What is known of one picture.

    header: of its file.
    used: how many values of a byte it has once read; 0 where it has not been counted.
    stored: the lowest and the highest value in the file, of those whose bytes are few.
    """

    header: Header
    used: int = 0
    stored: tuple[int, int] = (0, 0)


def facts(scenes: Scenes, index: int, image: Image) -> Facts | None:
    """What is known of a picture that has been read; None of a set that is not stored in files."""
    if not isinstance(scenes, Files):
        return None
    return facts_of(
        scenes.header(index), image, scenes.value_range, lambda: scenes.stored_values(index)
    )


def facts_of(
    header: Header,
    image: Image,
    value_range: ValueRange,
    stored: Callable[[], NDArray[np.generic]],
) -> Facts:
    """What is known of a picture.

    Args:
        header: of its file.
        image: as it is read.
        value_range: by which it was read.
        stored: gets the file's own values, which is asked for only if few bytes are used.
    """
    if header.depth != "uint16" and value_range is None:
        return Facts(header)
    counts = cv2.calcHist([image.reshape(len(image), -1)], [0], None, [256], [0, 256])
    used = int(np.count_nonzero(counts))
    if used >= FEW:
        return Facts(header, used)
    values = stored()
    return Facts(header, used, (int(values.min()), int(values.max())))


def remarks(known: Sequence[Facts | None]) -> Iterator[tuple[str, str]]:
    """Kind and text of each thing to say of a set of pictures."""
    pictures = [one for one in known if one is not None]
    yield from _orientation([one.header for one in pictures])
    more = [one.header for one in pictures if one.header.has_more_bands]
    if more:
        yield (
            "more bands",
            f"{len(more)} of {len(pictures)} pictures have {max(h.bands for h in more)} bands, the "
            "last of which is not used: of 4, bands 1 to 3 are red, green and blue, of 2 the first "
            "is grey",
        )
    dull = [one for one in pictures if 0 < one.used < FEW]
    if dull:
        low, high = min(one.stored[0] for one in dull), max(one.stored[1] for one in dull)
        yield (
            "few values",
            f"{len(dull)} of {len(pictures)} pictures are dull: they hold values from {low} to "
            f"{high}, and once these are bytes, {max(one.used for one in dull)} of 255 values are "
            f"used; set data.value_range=[{low},{high}], or data.value_range=percentile",
        )


def _orientation(headers: Sequence[Header]) -> Iterator[tuple[str, str]]:
    turned = [header for header in headers if header.is_turned]
    if turned:
        same = [h for h in turned if not h.is_on_its_side or h.size[0] == h.size[1]]
        doubt = f" (of {len(same)} of them the sizes cannot tell)" if same else ""
        yield (
            "orientation tag",
            f"{len(turned)} of {len(headers)} pictures have an EXIF orientation tag other than 1: "
            "they are turned upright, as viewers show them. Labels without a tag must lie like "
            f"that too{doubt}",
        )
    lost = [header for header in headers if header.orientation == 0]
    if lost:
        yield (
            "unreadable tags",
            f"{len(lost)} of {len(headers)} pictures have EXIF data that cannot be read: they are "
            "taken as stored, whatever their orientation",
        )
