"""Connected components and points in them, against a search from pixel to pixel."""

import numpy as np
import pytest

from sfseg.ops.components import components, random_points
from sfseg.types import IGNORE


def flooded(label):
    """Sets of pixels that are connected along their sides, by search."""
    left = {(y, x) for y, x in np.ndindex(*label.shape) if label[y, x] != IGNORE}
    while left:
        found, todo = set(), [min(left)]
        while todo:
            y, x = todo.pop()
            if (y, x) in left:
                left.remove((y, x))
                found.add((y, x))
                around = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
                todo += [p for p in around if p in left and label[p] == label[y, x]]
        yield int(label[min(found)]), frozenset(found)


@pytest.mark.parametrize("least", [0, 3, 500])
def test_components_are_what_a_search_finds(least):
    rng = np.random.default_rng(0)
    label = rng.choice(np.array([0, 1, 18, IGNORE], np.uint8), (17, 23))
    expected = list(flooded(label))
    found = components(label, least=least)
    assert found.total == len(expected)
    kept = {(c.label, frozenset(zip(c.rows, c.columns, strict=True))) for c in found.kept}
    assert kept == {(k, pixels) for k, pixels in expected if len(pixels) > least}


def test_a_component_must_exceed_the_least_and_touch_along_its_sides():
    label = np.full((6, 6), IGNORE, np.uint8)
    label[0, :4] = 2
    label[1, 4:] = 2  # touches at a corner alone
    assert components(label, least=4).kept == []
    (only,) = components(label, least=3).kept
    assert (only.rows.tolist(), only.columns.tolist()) == ([0] * 4, [0, 1, 2, 3])


def test_a_map_without_labels_has_none():
    assert components(np.full((4, 4), IGNORE, np.uint8), least=0) == (0, [])


def test_points_are_different_pixels_of_the_component_as_x_and_y():
    label = np.full((8, 30), IGNORE, np.uint8)
    label[2:4, 10:25] = 7
    (component,) = components(label, least=0).kept
    points = random_points(component, 12, np.random.default_rng(0))
    assert len({tuple(point) for point in points}) == 12
    x, y = points.T
    assert (label[y.astype(int), x.astype(int)] == 7).all()
    assert x.max() > 8, "y would be out of the image"
    again = random_points(component, 12, np.random.default_rng(0))
    np.testing.assert_array_equal(points, again)


def test_a_component_with_fewer_pixels_gives_all_of_them():
    label = np.full((3, 3), IGNORE, np.uint8)
    label[1, 1:] = 0
    (component,) = components(label, least=0).kept
    points = random_points(component, 5, np.random.default_rng(0))
    assert sorted(map(tuple, points.tolist())) == [(1, 1), (2, 1)]
