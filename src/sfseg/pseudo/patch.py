"""A change of pseudo-labels, checked before anything is written."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfseg.pseudo.reader import CERTAIN, PseudoLabels
from sfseg.types import IGNORE, size_text


@dataclass(frozen=True, eq=False)
class Patch:
    """New pseudo-labels of an image or of a part of it.

    Args:
        index: position of the image.
        label: (h, w) uint8 class ids, IGNORE for none.
        confidence: (h, w), as fractions in [0, 1] or, uint8, as stored; None leaves what is
            there.
        top: of the part, in pixels of the label map.
        left: of the part, in pixels of the label map.
    """

    index: int
    label: NDArray[np.uint8]
    confidence: NDArray[np.floating] | NDArray[np.uint8] | None = None
    top: int = 0
    left: int = 0


@dataclass(frozen=True, eq=False)
class Change:
    """A patch that fits, as bytes of each plane."""

    index: int
    top: int
    left: int
    parts: list[NDArray[np.uint8]]


def change(patch: Patch, store: PseudoLabels, *, is_first: bool) -> Change:
    """The patch as it will be stored.

    Args:
        patch: what a caller gave.
        store: what it is for.
        is_first: the image has nothing yet, so that the patch must be all of it.

    Raises:
        ValueError: it does not fit the image, or holds what is no class or no confidence.
    """
    label = np.asarray(patch.label)
    _require_inside(patch, label, store.size(patch.index), is_first=is_first)
    _require_ids(label, store.num_classes, patch.index)
    parts: list[NDArray[np.uint8]] = [label]
    if patch.confidence is not None:
        if not store.has_confidence:
            raise ValueError(
                f"the pseudo-labels in {store.folder} keep no confidence; make the store with "
                "with_confidence=True, or give none"
            )
        parts.append(_as_stored(np.asarray(patch.confidence), label.shape))
    elif store.has_confidence and is_first:
        raise ValueError(f"the first patch of image {patch.index} must give its confidence too")
    return Change(int(patch.index), int(patch.top), int(patch.left), parts)


def _require_inside(
    patch: Patch, label: NDArray[np.uint8], size: tuple[int, int], *, is_first: bool
) -> None:
    if label.dtype != np.uint8 or label.ndim != 2 or not label.size:
        raise ValueError(f"label must be (h, w) uint8, got {label.dtype} {label.shape}")
    ends = patch.top + label.shape[0], patch.left + label.shape[1]
    inside = min(patch.top, patch.left) >= 0 and ends[0] <= size[0] and ends[1] <= size[1]
    if not inside or (is_first and label.shape != size):
        raise ValueError(
            f"a patch of {size_text(label.shape)} pixels at ({patch.top}, {patch.left}) "
            f"must be {'all of' if is_first else 'inside'} image {patch.index}, which has "
            f"{size_text(size)} (width x height)"
        )


def _require_ids(label: NDArray[np.uint8], num_classes: int, index: int) -> None:
    # IGNORE wraps around to 0.
    if int((label + np.uint8(1)).max()) > num_classes:
        wrong = label[(label >= num_classes) & (label != IGNORE)][0]
        raise ValueError(
            f"label must hold ids below {num_classes} or {IGNORE}, got {wrong} for image {index}"
        )


def _as_stored(
    confidence: NDArray[np.floating] | NDArray[np.uint8], shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    """In steps of 1 / 255, to the nearest."""
    if confidence.shape != shape:
        raise ValueError(f"confidence must be {shape} like its label, got {confidence.shape}")
    if confidence.dtype == np.uint8:
        return confidence.astype(np.uint8, copy=False)
    if not (confidence.min() >= 0 and confidence.max() <= 1):
        raise ValueError(
            f"confidence must be in [0, 1], got {confidence.min()} to {confidence.max()}"
        )
    return np.rint(confidence * CERTAIN).astype(np.uint8)
