"""Which classes the labels of a set never hold, how much is void, and what that usually means."""

import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sfseg.data.files import Files
from sfseg.data.folder import Scenes
from sfseg.data.odd_masks import Remark
from sfseg.errors import DataError
from sfseg.types import IGNORE

log = logging.getLogger(__name__)

MISSING, VOID = "class in no label", "mostly void"
MOST = 0.5
"""Share of void pixels above which a set is odd."""
ENOUGH = 100
"""Labels after which a class that has not been seen is worth a warning, though others follow."""
LOOKED_AT = 8
"""Label files that are read again for what may be the cause."""


def odd_classes(scenes: Scenes, counts: Sequence[NDArray[np.int64]], pixels: int) -> list[Remark]:
    """What is odd about the classes in the labels of a set that is stored in files.

    Args:
        scenes: the set.
        counts: (K,) labelled pixels of each class, of each label that was read.
        pixels: of these labels, void included.
    """
    total = np.sum(counts, axis=0)
    # Labels of a set that is drawn are what they are meant to be.
    if not isinstance(scenes, Files) or not len(counts) or not total.any():
        return []
    names = [name for name, number in zip(scenes.labels.classes, total, strict=True) if not number]
    void = 1 - total.sum() / pixels
    if not names and void <= MOST:
        return []
    read = f"the {len(counts)} labels read" + (
        f" of {len(scenes)}" if len(counts) < len(scenes) else ""
    )
    cause = _cause(scenes, is_missing=bool(names))
    found = []
    if names:
        text = f"{', '.join(names)} {'occurs' if len(names) == 1 else 'occur'} in none of {read}"
        found.append(Remark(MISSING, f"{text}: {cause}"))
    if void > MOST:
        found.append(Remark(VOID, f"{void:.0%} of the pixels of {read} are void: {cause}"))
    return found


def warn_of_classes(
    scenes: Scenes, what: str, counts: Sequence[NDArray[np.int64]], pixels: int
) -> None:
    """Log what is odd about the classes of a set: those it lacks only where it is to be learnt.

    Args:
        scenes: the set.
        what: its name, such as ``source train``.
        counts: see :func:`odd_classes`.
        pixels: likewise.
    """
    for kind, text in odd_classes(scenes, counts, pixels):
        if kind == VOID:
            log.warning("%s: %s", what, text)
        elif what.endswith("train"):
            present = int((np.sum(counts, axis=0) > 0).sum())
            # Of a small sample it says little, unless it is much that lacks.
            is_known = len(counts) >= min(ENOUGH, len(scenes))
            is_much = 2 * present <= scenes.labels.num_classes
            log.log(logging.WARNING if is_known or is_much else logging.INFO, "%s: %s", what, text)


def _cause(files: Files, *, is_missing: bool) -> str:
    """What the stored ids of some of the labels say about it."""
    stored = _stored(files)
    decoding = files.decoding
    if files.labels.num_classes == 2 and set(stored) == {0, IGNORE} and is_missing:
        return (
            f"the masks hold 0 and {IGNORE}, and {IGNORE} is void unless 'values' says otherwise; "
            f"write `values: [0, {IGNORE}]` into {decoding.where or 'a classes.yaml of your own'}"
        )
    if not stored:
        return (
            "colours that the palette gives to no class, that 'ignore' lists, or black; check "
            f"'palette' and 'ignore' in {decoding.where or 'the classes file'}"
        )
    size = sum(stored.values())
    shown = ", ".join(f"{k} ({n / size:.1%})" for k, n in sorted(stored.items()))
    void = f", of which {IGNORE} is void unless 'values' names it" if IGNORE in stored else ""
    return (
        f"the masks hold the ids {shown}{void}; check 'classes', 'values' and 'ignore' in "
        f"{decoding.where or 'the file that data.classes names'}, or whether the masks label them"
    )


def _stored(files: Files) -> Counter[int]:
    """Pixels of each stored id in some of the label files; empty where these hold colours."""
    found: Counter[int] = Counter()
    for index in np.unique(np.linspace(0, len(files) - 1, LOOKED_AT).astype(int)).tolist():
        try:
            ids = files.stored_ids(index)
        except DataError:
            continue  # whoever reads the label has said it
        if ids is not None:
            values, numbers = np.unique(ids, return_counts=True)
            found.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    return found
