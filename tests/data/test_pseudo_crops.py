"""Corrections of crops, against a loop over pixels."""

import numpy as np
import pytest

from sfseg.data.geometry import Geometry, View
from sfseg.data.pseudo_crops import correct, crop_pseudo_label
from sfseg.pseudo.identity import Identity
from sfseg.pseudo.patch import Patch
from sfseg.pseudo.store import PseudoLabelStore
from sfseg.types import IGNORE

CLASSES = [f"class {k}" for k in range(200)]
COUNT = 80


def random_label(rng, size, ignored=0.1):
    label = rng.integers(len(CLASSES), size=size).astype(np.uint8)
    label[rng.random(size) < ignored] = IGNORE
    return label


def random_size(geometry, rng):
    return tuple(int(n) for n in rng.integers(1, 28, 2))


def finer(g, rng):
    return tuple(int(n + rng.integers(9)) for n in (g.scaled_height, g.scaled_width))


def coarser(g, rng):
    return tuple(int(rng.integers(1, n + 1)) for n in (g.scaled_height, g.scaled_width))


def cases(folder, size=random_size, count=COUNT):
    """A store of label maps, and (index, crop's geometry, label, proposal) of every image.

    Args:
        folder: of the store.
        size: of a map, given the crop's geometry; that of the image's file is another.
        count: of images.
    """
    found = []
    for k in range(count):
        rng = np.random.default_rng(k)
        full, resized, crop = (random_size(None, rng) for _ in range(3))
        view = View(crop, resize=resized if k % 2 else None, ratio=(0.5, 2.0))
        geometry = view.draw(None, rng, full)
        label = random_label(rng, size(geometry, rng))
        seen = (geometry.height, geometry.width)
        found.append((k, geometry, label, random_label(rng, seen, ignored=0.3)))
    names = [str(k) for k in range(count)]
    identity = Identity(names, [label.shape for _, _, label, _ in found], CLASSES, "model")
    store = PseudoLabelStore.create(folder, identity, durable=False)
    store.write(*(Patch(k, label) for k, _, label, _ in found))
    store.commit()
    return store, found


def seen_at(geometry, size):
    """Pixel by pixel of a label map, the crop's pixel that shows its centre, if any does."""
    g, height, width = geometry, *size
    for y, x in np.ndindex(height, width):
        row = int((y + 0.5) * g.scaled_height / height) - g.top
        column = int((x + 0.5) * g.scaled_width / width) - g.left
        if 0 <= row < g.height and 0 <= column < g.width:
            yield (y, x), (row, g.width - 1 - column if g.flip else column)


def test_a_correction_lands_on_the_pixels_that_the_crop_shows(tmp_path):
    store, found = cases(tmp_path / "s")
    for index, geometry, label, proposal in found:
        expected = label.copy()
        for pixel, seen in seen_at(geometry, label.shape):
            if proposal[seen] != IGNORE:
                expected[pixel] = proposal[seen]
        change = correct(store, index, geometry, proposal)
        np.testing.assert_array_equal(store.read(index).label, expected, str(geometry))
        rows, columns = np.nonzero(expected != label)
        np.testing.assert_array_equal(change.where, (rows, columns))
        np.testing.assert_array_equal(change.before, label[rows, columns])
        np.testing.assert_array_equal(change.after, expected[rows, columns])
        if index + 1 < len(found):  # an image's neighbours in the file keep theirs
            np.testing.assert_array_equal(store.read(index + 1).label, found[index + 1][2])


def test_a_crop_shows_the_map_below_its_pixels(tmp_path):
    store, found = cases(tmp_path / "s")
    for index, g, label, _ in found:
        expected = np.empty((g.height, g.width), np.uint8)
        for row, column in np.ndindex(g.height, g.width):
            y, x = g.top + row, g.left + (g.width - 1 - column if g.flip else column)
            y = int((y + 0.5) * label.shape[0] / g.scaled_height)
            x = int((x + 0.5) * label.shape[1] / g.scaled_width)
            expected[row, column] = label[y, x]
        np.testing.assert_array_equal(crop_pseudo_label(store, index, g), expected, str(g))


def test_a_map_at_least_as_fine_as_the_crop_shows_the_proposal(tmp_path):
    store, found = cases(tmp_path / "s", finer)
    for index, g, _, proposal in found:
        before = crop_pseudo_label(store, index, g)
        correct(store, index, g, proposal)
        expected = np.where(proposal != IGNORE, proposal, before)
        np.testing.assert_array_equal(crop_pseudo_label(store, index, g), expected, str(g))


def test_a_crop_at_least_as_fine_as_the_map_can_write_any_map(tmp_path):
    store, found = cases(tmp_path / "s", coarser)
    for index, g, label, _ in found:
        wanted = random_label(np.random.default_rng(index + COUNT), label.shape, ignored=0)
        store.write(Patch(index, wanted))
        proposal = crop_pseudo_label(store, index, g)
        store.write(Patch(index, label))
        correct(store, index, g, proposal)
        expected = label.copy()
        for pixel, _ in seen_at(g, label.shape):
            expected[pixel] = wanted[pixel]
        np.testing.assert_array_equal(store.read(index).label, expected, str(g))


def one(folder):
    """A store and a correction that changes it."""
    store, found = cases(folder, count=4)
    return store, *found[3]


def test_the_same_correction_again_changes_nothing(tmp_path):
    store, index, geometry, _, proposal = one(tmp_path / "s")
    assert len(correct(store, index, geometry, proposal).after)
    commit = store.commit()
    again = correct(store, index, geometry, proposal)
    assert len(again.after) == len(again.before) == len(again.where[0]) == 0
    assert store.commit() == commit


def test_a_proposal_of_another_size_is_refused_and_changes_nothing(tmp_path):
    store, index, geometry, label, proposal = one(tmp_path / "s")
    with pytest.raises(ValueError, match="must have the sizes"):
        correct(store, index, geometry, proposal[:-1])
    np.testing.assert_array_equal(store.read(index).label, label)


def test_a_commit_takes_corrections_back(tmp_path):
    store, index, geometry, label, proposal = one(tmp_path / "s")
    commit = store.last
    correct(store, index, geometry, proposal)
    store.restore(commit)
    np.testing.assert_array_equal(store.read(index).label, label)


def test_confidence_stays_as_it_is(tmp_path):
    identity = Identity(["a"], [(4, 6)], CLASSES, "model")
    with PseudoLabelStore.create(tmp_path / "s", identity, with_confidence=True) as store:
        confidence = np.arange(24, dtype=np.uint8).reshape(4, 6)
        store.write(Patch(0, np.zeros((4, 6), np.uint8), confidence))
        store.commit()
        correct(store, 0, Geometry.whole((8, 12), (4, 6)), np.full((4, 6), 9, np.uint8))
        label, kept = store.read(0)
    assert (label == 9).all()
    np.testing.assert_array_equal(kept, confidence)
