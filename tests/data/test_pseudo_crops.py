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
SEEDS = range(60)


def random_label(rng, size, ignored=0.1):
    label = rng.integers(len(CLASSES), size=size).astype(np.uint8)
    label[rng.random(size) < ignored] = IGNORE
    return label


def case(folder, seed, size=None):
    """A store of one label map and a crop of its image, whose file has another size.

    Args:
        folder: of the store.
        seed: of all choices.
        size: of the map, given the crop's geometry; None draws any.
    """
    rng = np.random.default_rng(seed)
    full, resized, crop = (tuple(int(n) for n in rng.integers(1, 28, 2)) for _ in range(3))
    view = View(crop, resize=resized if seed % 2 else None, ratio=(0.5, 2.0))
    geometry = view.draw(None, rng, full)
    shape = tuple(int(n) for n in rng.integers(1, 28, 2)) if size is None else size(geometry, rng)
    label = random_label(rng, shape)
    store = PseudoLabelStore.create(
        folder, Identity(["a", "b"], [shape, (2, 3)], CLASSES, "model"), durable=False
    )
    store.write(Patch(0, label), Patch(1, np.full((2, 3), 7, np.uint8)))
    store.commit()
    return store, geometry, label, random_label(rng, crop, ignored=0.3)


def seen_at(geometry, size):
    """Pixel by pixel of a label map, the crop's pixel that shows its centre, if any does."""
    g, height, width = geometry, *size
    for y, x in np.ndindex(height, width):
        row = int((y + 0.5) * g.scaled_height / height) - g.top
        column = int((x + 0.5) * g.scaled_width / width) - g.left
        if 0 <= row < g.height and 0 <= column < g.width:
            yield (y, x), (row, g.width - 1 - column if g.flip else column)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_correction_lands_on_the_pixels_that_the_crop_shows(tmp_path, seed):
    store, geometry, label, proposal = case(tmp_path / "s", seed)
    expected = label.copy()
    for pixel, seen in seen_at(geometry, label.shape):
        if proposal[seen] != IGNORE:
            expected[pixel] = proposal[seen]
    change = correct(store, 0, geometry, proposal)
    np.testing.assert_array_equal(store.read(0).label, expected)
    np.testing.assert_array_equal(store.read(1).label, 7)
    rows, columns = np.nonzero(expected != label)
    np.testing.assert_array_equal(change.where, (rows, columns))
    np.testing.assert_array_equal(change.before, label[rows, columns])
    np.testing.assert_array_equal(change.after, expected[rows, columns])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_crop_shows_the_map_below_its_pixels_and_nothing_in_padding(tmp_path, seed):
    store, g, label, _ = case(tmp_path / "s", seed)
    expected = np.full((g.height, g.width), IGNORE, np.uint8)
    for row, column in np.ndindex(g.height, g.width):
        y, x = g.top + row, g.left + (g.width - 1 - column if g.flip else column)
        if y < g.scaled_height and x < g.scaled_width:
            centre = int((y + 0.5) * label.shape[0] / g.scaled_height)
            expected[row, column] = label[centre, int((x + 0.5) * label.shape[1] / g.scaled_width)]
    np.testing.assert_array_equal(crop_pseudo_label(store, 0, g), expected)


def finer(g, rng):
    return tuple(int(n + rng.integers(9)) for n in (g.scaled_height, g.scaled_width))


def coarser(g, rng):
    return tuple(int(rng.integers(1, n + 1)) for n in (g.scaled_height, g.scaled_width))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_map_at_least_as_fine_as_the_crop_shows_the_proposal(tmp_path, seed):
    store, g, _, proposal = case(tmp_path / "s", seed, finer)
    before = crop_pseudo_label(store, 0, g)
    correct(store, 0, g, proposal)
    rows = np.arange(g.height) + g.top < g.scaled_height
    columns = np.arange(g.width) + g.left < g.scaled_width
    shown = rows[:, None] & (columns[::-1] if g.flip else columns)
    expected = np.where(shown & (proposal != IGNORE), proposal, before)
    np.testing.assert_array_equal(crop_pseudo_label(store, 0, g), expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_crop_at_least_as_fine_as_the_map_can_write_any_map(tmp_path, seed):
    store, g, label, _ = case(tmp_path / "s", seed, coarser)
    wanted = random_label(np.random.default_rng(seed + 1), label.shape, ignored=0)
    store.write(Patch(0, wanted))
    proposal = crop_pseudo_label(store, 0, g)
    store.write(Patch(0, label))
    correct(store, 0, g, proposal)
    expected = label.copy()
    for pixel, _ in seen_at(g, label.shape):
        expected[pixel] = wanted[pixel]
    np.testing.assert_array_equal(store.read(0).label, expected)


def test_the_same_correction_again_changes_nothing(tmp_path):
    store, geometry, _, proposal = case(tmp_path / "s", 3)
    assert len(correct(store, 0, geometry, proposal).after)
    commit = store.commit()
    again = correct(store, 0, geometry, proposal)
    assert len(again.after) == len(again.before) == len(again.where[0]) == 0
    assert store.commit() == commit


def test_a_proposal_of_another_size_is_refused_and_changes_nothing(tmp_path):
    store, geometry, label, proposal = case(tmp_path / "s", 3)
    with pytest.raises(ValueError, match="must have the sizes"):
        correct(store, 0, geometry, proposal[:-1])
    np.testing.assert_array_equal(store.read(0).label, label)


def test_a_commit_takes_corrections_back(tmp_path):
    store, geometry, label, proposal = case(tmp_path / "s", 3)
    commit = store.last
    correct(store, 0, geometry, proposal)
    store.restore(commit)
    np.testing.assert_array_equal(store.read(0).label, label)


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
