"""Look at the data before training does: hours later is too late for a broken file."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sfseg.data.folder import Scenes, label_of
from sfseg.errors import DataError
from sfseg.types import IGNORE

SHOWN = 5


def check_scenes(scenes: Scenes, what: str, *, with_labels: bool, samples: int | None) -> None:
    """Decode images and labels of a set and compare them.

    Args:
        scenes: the set.
        what: its name for messages, such as ``source train``.
        with_labels: whether labels will be read.
        samples: how many scenes, evenly spread, are read; None reads all, 0 none.

    Raises:
        DataError: an empty set, unreadable files, images and labels of different size, ids
            that are no class, or labels that are void everywhere.
    """
    if not len(scenes):
        raise DataError(f"the {what} set is empty; check its folder, split and sequences")
    count = len(scenes) if samples is None else min(samples, len(scenes))
    chosen = np.unique(np.linspace(0, len(scenes) - 1, count).astype(int))
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        found = list(pool.map(lambda index: _look(scenes, int(index), with_labels), chosen))
    faults = [message for message, _ in found if message]
    if faults:
        listed = "\n  ".join(faults[:SHOWN])
        more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DataError(f"{what}: {len(faults)} of {len(chosen)} scenes read\n  {listed}{more}")
    if with_labels and count and not any(labelled for _, labelled in found):
        raise DataError(
            f"{what}: all pixels of the {len(chosen)} labels read are void ({IGNORE}); nothing "
            "could be learnt or measured. Check the id mapping (data.classes) and the masks"
        )


def _look(scenes: Scenes, index: int, with_labels: bool) -> tuple[str, bool]:
    """What is wrong with a scene, and whether any pixel of its label counts."""
    try:
        image = scenes.image(index)
        if not with_labels:
            return "", False
        label = label_of(scenes, index, image)
    except DataError as error:
        return str(error), False
    return "", bool((label != IGNORE).any())
