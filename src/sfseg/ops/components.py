"""Connected components of a label map, and points in them that ask for the object's mask.

After CLOUDS (Benigmim et al., CVPR 2024, arXiv:2312.09788). Its release also has options that take
a component's centre, erode it first, or use one component alone, which is the last and not the
largest; all are off in its configurations and left out here.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from sfseg.types import IGNORE


class Component(NamedTuple):
    """Pixels of one class that touch each other along their sides.

    label: class id.
    rows, columns: of its pixels.
    """

    label: int
    rows: np.ndarray
    columns: np.ndarray


class Components(NamedTuple):
    """What a label map consists of.

    total: number of its components.
    kept: those that are large enough, class by class, from top to bottom.
    """

    total: int
    kept: list[Component]


def components(label: UInt8[np.ndarray, "H W"], *, least: float) -> Components:
    """The components of every class that have more pixels than ``least``.

    Args:
        label: class ids; IGNORE belongs to none.
        least: a number of pixels; 5000 of 768x768 in the release of CLOUDS.
    """
    from scipy import ndimage  # takes a while, and most runs need none of it

    total, kept = 0, []
    for k in np.flatnonzero(np.bincount(label.ravel(), minlength=IGNORE + 1)[:IGNORE]).tolist():
        numbered, number = ndimage.label(label == k)  # neighbours share a side
        total += number
        sizes = np.bincount(numbered.ravel(), minlength=number + 1)
        boxes = ndimage.find_objects(numbered)
        for own in (np.flatnonzero(sizes[1:] > least) + 1).tolist():
            box = boxes[own - 1]
            rows, columns = np.nonzero(numbered[box] == own)
            kept.append(Component(k, rows + box[0].start, columns + box[1].start))
    return Components(total, kept)


def random_points(
    component: Component, count: int, rng: np.random.Generator
) -> Float[np.ndarray, "n 2"]:
    """Different pixels of a component, as (x, y); all of them where it has fewer than ``count``."""
    size = len(component.rows)
    drawn = rng.choice(size, min(count, size), replace=False)
    return np.stack([component.columns[drawn], component.rows[drawn]], axis=1).astype(np.float64)
