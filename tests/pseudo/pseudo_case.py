"""Small stores whose content is a function of a seed."""

import numpy as np

from sfseg.pseudo.identity import Identity
from sfseg.pseudo.patch import Patch
from sfseg.pseudo.store import PseudoLabelStore
from sfseg.types import IGNORE

CLASSES = ("road", "car", "sky")
SIZES = {"equal": [(6, 8)] * 5, "different": [(6, 8), (3, 5), (1, 1), (7, 4), (6, 8)]}


def identity(sizes=SIZES["equal"], **changes):
    values = {
        "names": [f"city/{k}.png" for k in range(len(sizes))],
        "sizes": sizes,
        "classes": CLASSES,
        "source": "3fa9",
    }
    return Identity(**{**values, **changes})


def labels(size, rng):
    """Blocks of classes with some pixels of none."""
    label = np.full(size, rng.integers(len(CLASSES)), np.uint8)
    label[: rng.integers(1, size[0] + 1)] = rng.integers(len(CLASSES))
    label[rng.random(size) < 0.2] = IGNORE
    return label


def whole(index, size, seed=0, with_confidence=True):
    """A patch that is all of an image."""
    rng = np.random.default_rng([seed, index])
    label = labels(size, rng)
    return Patch(index, label, rng.random(size) if with_confidence else None)


def part(seed, sizes, with_confidence=True):
    """A patch somewhere in some image."""
    rng = np.random.default_rng([7, seed])
    index = int(rng.integers(len(sizes)))
    height, width = (int(rng.integers(1, side + 1)) for side in sizes[index])
    top = int(rng.integers(sizes[index][0] - height + 1))
    left = int(rng.integers(sizes[index][1] - width + 1))
    confidence = rng.random((height, width)) if with_confidence else None
    return Patch(index, labels((height, width), rng), confidence, top, left)


def filled(folder, sizes=SIZES["equal"], *, with_confidence=True, content=None, **options):
    """A store after its first commit."""
    made_for = identity(sizes, content=content)
    store = PseudoLabelStore.create(folder, made_for, with_confidence=with_confidence, **options)
    store.write(*(whole(k, size, 0, with_confidence) for k, size in enumerate(sizes)))
    store.commit()
    return store


def content(store):
    """All of it, as copies."""
    return [store.read(k) for k in range(len(store))]


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.label, b.label)
        assert (a.confidence is None) == (b.confidence is None)
        if a.confidence is not None:
            np.testing.assert_array_equal(a.confidence, b.confidence)
