"""What is worth saying of the pictures of a set, beside what is wrong with single files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from sfseg.data.folder import Scenes
from sfseg.data.geometry import Image
from sfseg.data.headers import Header

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
    header_of: Callable[[int], Header] | None = getattr(scenes, "header", None)
    stored_of: Callable[[int], tuple[int, int]] | None = getattr(scenes, "stored_range", None)
    if header_of is None or stored_of is None:
        return None
    header = header_of(index)
    if header.depth != "uint16":
        return Facts(header)
    counts = cv2.calcHist([image.reshape(len(image), -1)], [0], None, [256], [0, 256])
    used = int(np.count_nonzero(counts))
    return Facts(header, used, stored_of(index) if used < FEW else (0, 0))


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
            f"{len(dull)} of {len(pictures)} pictures hold 16 bits a sample, from {low} to {high}, "
            f"of which {max(one.used for one in dull)} of 255 values are used once they are bytes; "
            f"set data.value_range=[{low},{high}], or data.value_range=percentile",
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
