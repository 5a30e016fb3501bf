"""Which number each data set stores for each class of Cityscapes.

Sources: cityscapesScripts (labels.py), which GTA5 and Cross-City follow; the README of
SYNTHIA-RAND-CITYSCAPES; the configuration of Mapillary Vistas 1.2. Files are mapped in memory, by
a table of 256 entries, or 65,536 where ids have 16 bits; nothing is converted on disk.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sfseg.data.classes_file import WIDEST
from sfseg.labels import CITYSCAPES, LabelSpace
from sfseg.types import IGNORE

INVALID = IGNORE - 1
"""Marks stored ids that are no class; class ids end below it."""

IdsByName = Mapping[str, Sequence[int]]

TRAIN_IDS: IdsByName = {name: (k,) for k, name in enumerate(CITYSCAPES.classes)}
"""BDD100K's masks and ACDC's ``labelTrainIds``; void is 255."""

LABEL_IDS: IdsByName = dict(
    zip(
        CITYSCAPES.classes,
        [(k,) for k in (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)],
        strict=True,
    )
)
"""Cityscapes' ``labelIds``, 0 to 33; GTA5 adds 34, a licence plate."""

SYNTHIA_IDS: IdsByName = dict(
    zip(
        CITYSCAPES.classes,
        [(k,) for k in (3, 4, 2, 21, 5, 7, 15, 9, 6, 16, 1, 10, 17, 8, 18, 19, 20, 12, 11)],
        strict=True,
    )
)
"""0 void, 13 parking slot, 14 road work and 22 lane marking are left over."""
SYNTHIA_LANE_MARKING = 22

MAPILLARY_IDS: IdsByName = dict(
    zip(
        CITYSCAPES.classes,
        [
            (13, 24, 41), (2, 15), (17,), (6,), (3,), (45, 47), (48,), (50,), (30,), (29,), (27,),
            (19,), (20, 21, 22), (55,), (61,), (54,), (58,), (57,), (52,),
        ],
        strict=True,
    )
)  # fmt: skip
"""Lane markings and manholes are road, crosswalks void, kerbs pavement, all riders one class."""
VISTAS_IDS, VISTAS_2_IDS = range(66), range(124)
"""All ids of the versions 1.2 and 2.0, in which the same number means another class."""


def id_table(ids: Mapping[int, int], *, ignored: Iterable[int] = (IGNORE,)) -> NDArray[np.uint8]:
    """Lookup table from stored ids to class ids, as long as the ids need.

    Args:
        ids: stored id -> class id.
        ignored: stored ids that do not count, unless they are among ``ids``; all others are
            :data:`INVALID`.
    """
    entries = dict.fromkeys(ignored, IGNORE) | dict(ids)
    if wrong := [stored for stored in entries if not 0 <= stored <= WIDEST]:
        raise ValueError(f"a stored id must be in [0, {WIDEST}], got {wrong[0]}")
    table = np.full(256 if max(entries, default=0) < 256 else WIDEST + 1, INVALID, np.uint8)
    for stored, class_id in entries.items():
        table[stored] = class_id
    return table


def named_table(labels: LabelSpace, ids: IdsByName, *, ignored: Iterable[int]) -> NDArray[np.uint8]:
    """Lookup table for the classes of a label space, which may be fewer than were annotated.

    Raises:
        ValueError: a class that the data set does not know.
    """
    unknown = [name for name in labels.classes if name not in ids]
    if unknown:
        raise ValueError(
            f"data.classes={labels.name} has {unknown}, which the files do not tell apart; they "
            f"know {list(ids)}"
        )
    others = [k for name, stored in ids.items() if name not in labels.classes for k in stored]
    classes = {k: position for position, name in enumerate(labels.classes) for k in ids[name]}
    return id_table(classes, ignored=[*others, *ignored])
