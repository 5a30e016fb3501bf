"""Pseudo-labels of crops: cut from those of the whole image, and written back to them."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from sfseg.data.geometry import Geometry, Image, crop_label, pad_label, restore_label
from sfseg.pseudo.patch import Patch
from sfseg.pseudo.reader import PseudoLabels
from sfseg.pseudo.store import PseudoLabelStore
from sfseg.types import IGNORE


class Correction(NamedTuple):
    """Pixels of a whole image whose pseudo-label has changed.

    where: (rows, columns) of them, in pixels of the label map.
    before: their labels.
    after: their labels now.
    """

    where: tuple[np.ndarray, np.ndarray]
    before: Image
    after: Image


def crop_pseudo_label(labels: PseudoLabels, index: int, geometry: Geometry) -> Image:
    """Pseudo-labels (H, W) of a crop, whatever the size that they are kept at."""
    return crop_label(labels.read(index).label, geometry)


def crop_pseudo_labels(labels: PseudoLabels, places: Iterable[tuple[int, Sequence[int]]]) -> Image:
    """Those (B, H, W) of a batch of crops, of the largest one's size: IGNORE around smaller ones.

    Args:
        labels: of the images.
        places: number of the image and geometry of every crop.
    """
    crops = [crop_pseudo_label(labels, index, Geometry(*place)) for index, place in places]
    size = (max(len(crop) for crop in crops), max(crop.shape[1] for crop in crops))
    return np.stack([pad_label(crop, size) for crop in crops])


def correct(store: PseudoLabelStore, index: int, geometry: Geometry, proposal: Image) -> Correction:
    """Give pixels of an image new pseudo-labels, as seen in one of its crops.

    Every pixel of the label map that the crop shows takes the label of the crop's pixel at its
    place.

    Args:
        store: of the pseudo-labels.
        index: of the image.
        geometry: of the crop.
        proposal: (H, W) new class ids of the crop's pixels, IGNORE where the old ones stay.
    """
    old = store.read(index).label
    new = np.full_like(old, IGNORE)
    height, width = old.shape
    restore_label(proposal, geometry._replace(full_height=height, full_width=width), new)
    rows, columns = np.nonzero((new != IGNORE) & (new != old))
    change = Correction((rows, columns), old[rows, columns], new[rows, columns])
    if rows.size:
        top, bottom = rows.min(), rows.max() + 1
        left, right = columns.min(), columns.max() + 1
        part = np.s_[top:bottom, left:right]
        label = np.where(new == IGNORE, old, new)[part]
        store.write(Patch(index, label, top=int(top), left=int(left)))
    return change
