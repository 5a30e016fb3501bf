"""Images that are nearly the same: a set of a few images in many copies teaches little."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sfseg.data.geometry import Image

SIDE = 16
"""Of a thumbnail, in pixels: layout and colours stay, textures and noise go."""
CLOSE = 8.0
"""Root mean square difference of thumbnails, of 255, below which images are nearly the same.

Of 60 streets of toyscapes no two are closer than 25; a copy with noise, or as JPEG, is at 2, one
that is shifted by two pixels of 256 at 6.
"""
ROWS = 512
"""Of the matrix of distances, those that are in memory at once."""

Thumbnails = NDArray[np.float32]
"""(N, 3 * SIDE * SIDE), values 0..255."""


class Pair(NamedTuple):
    """Positions of two images, and the difference of their thumbnails, 0..255."""

    first: int
    second: int
    difference: float


def thumbnail(image: Image) -> NDArray[np.float32]:
    """An image (H, W, 3) as 3 * SIDE * SIDE means of its areas, whatever its proportions."""
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32).ravel()


def near_duplicates(images: Thumbnails, others: Thumbnails | None = None) -> list[Pair]:
    """Pairs that differ by less than :data:`CLOSE`, the closest first.

    Args:
        images: of a set.
        others: of another set, with which every image is compared; None: with those of its own.
    """
    against = images if others is None else others
    found: list[Pair] = []
    for top in range(0, len(images), ROWS):
        block = images[top : top + ROWS].astype(np.float64)
        # |a - b|^2 = |a|^2 + |b|^2 - 2ab, in double precision: the terms are much larger than it.
        squares = np.square(block).sum(axis=1)[:, None] - 2 * block @ against.T.astype(np.float64)
        squares += np.square(against.astype(np.float64)).sum(axis=1)
        difference = np.sqrt(np.maximum(squares, 0) / images.shape[1])
        for row, column in np.argwhere(difference < CLOSE):
            first, second = int(row) + top, int(column)
            if others is not None or first < second:
                found.append(Pair(first, second, float(difference[row, column])))
    return sorted(found, key=lambda pair: (pair.difference, pair))
